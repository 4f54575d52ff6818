//! Roles on the control socket, from the configuration and the system's users and groups.
//!
//! Names are looked up when somebody connects, not at the start: a user who joins a group has its role at once.

use std::ffi::CString;

use nix::unistd::{Gid, Group, Uid, User, getgrouplist};
use zrelay_config::{Access, Account, Principal};
use zrelay_scheduler::control::{self, Role};

/// The table `[access]`.
pub(super) struct Users {
    access: Access,
}

/// Somebody who connects.
struct Peer {
    uid: u32,
    name: Option<String>,
    groups: Vec<u32>,
}

impl Users {
    pub(super) fn new(access: Access) -> Self {
        Self { access }
    }
}

impl control::Access for Users {
    fn role(&self, uid: u32, gid: u32) -> Option<Role> {
        if !self.is_open() {
            return None;
        }
        let name = self.name(uid);
        let listed = name.as_deref().and_then(|name| CString::new(name).ok());
        let groups = listed.and_then(|name| getgrouplist(&name, Gid::from_raw(gid)).ok()).unwrap_or_default();
        let groups = groups.into_iter().map(Gid::as_raw).chain([gid]).collect();
        highest(&self.access, &Peer { uid, name, groups }, |group| {
            Group::from_name(group).ok().flatten().map(|group| group.gid.as_raw())
        })
    }

    fn name(&self, uid: u32) -> Option<String> {
        User::from_uid(Uid::from_raw(uid)).ok().flatten().map(|user| user.name)
    }

    fn is_open(&self) -> bool {
        let Access { read_only, operator, admin } = &self.access;
        ![read_only, operator, admin].into_iter().all(Vec::is_empty)
    }
}

/// The highest role that a list gives; `gid_of` knows the numbers of groups.
fn highest(access: &Access, peer: &Peer, gid_of: impl Fn(&str) -> Option<u32>) -> Option<Role> {
    let is_meant = |principal: &Principal| match principal {
        Principal::User(Account::Number(uid)) => *uid == peer.uid,
        Principal::User(Account::Name(name)) => peer.name.as_ref() == Some(name),
        Principal::Group(Account::Number(gid)) => peer.groups.contains(gid),
        Principal::Group(Account::Name(name)) => gid_of(name).is_some_and(|gid| peer.groups.contains(&gid)),
    };
    let lists = [(Role::Admin, &access.admin), (Role::Operator, &access.operator), (Role::ReadOnly, &access.read_only)];
    lists.into_iter().find(|(_, list)| list.iter().any(is_meant)).map(|(role, _)| role)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_highest_list_that_names_a_user_or_one_of_its_groups_decides() {
        let list = |names: &[&str]| names.iter().map(|name| name.parse().unwrap()).collect();
        let access = Access {
            read_only: list(&["%staff", "1000"]),
            operator: list(&["alice", "%7"]),
            admin: list(&["%mail-admins"]),
        };
        let gid_of = |name: &str| match name {
            "staff" => Some(50),
            "mail-admins" => Some(60),
            _ => None,
        };
        for (uid, name, groups, role) in [
            (2000, "alice", &[][..], Some(Role::Operator)),
            (2000, "alice", &[60], Some(Role::Admin)),
            (2001, "bob", &[50], Some(Role::ReadOnly)),
            (2001, "bob", &[50, 7], Some(Role::Operator)),
            (1000, "carol", &[1000], Some(Role::ReadOnly)),
            (2002, "mallory", &[1, 2], None),
        ] {
            let peer = Peer { uid, name: Some(name.to_owned()), groups: groups.to_vec() };
            assert_eq!(highest(&access, &peer, gid_of), role, "{name} {groups:?}");
        }
    }
}
