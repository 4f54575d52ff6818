//! Who may do what on the control socket.

use std::fmt;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// What a caller may do; each role may do what those before it may.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// Look: listings and `top`.
    ReadOnly,
    /// Also trace conversations, hold, release, retry, reroute, and expire, which tells the senders.
    Operator,
    /// Everything: also drop, of which nobody is told.
    Admin,
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::ReadOnly => "read_only",
            Self::Operator => "operator",
            Self::Admin => "admin",
        })
    }
}

/// Whoever is at the other end of a connection, by the word of the kernel (`SO_PEERCRED`).
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, JsonSchema)]
pub struct Caller {
    /// The user.
    pub uid: u32,
    /// The name of the user, where it has one.
    pub user: Option<String>,
    /// The process.
    pub pid: i32,
    /// What it may do.
    pub role: Role,
}

impl fmt::Display for Caller {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.user {
            Some(user) => write!(f, "user {user} ({})", self.uid),
            None => write!(f, "user {}", self.uid),
        }
    }
}

/// Tells who somebody is: the wiring knows the configuration and the system's users.
pub trait Access: Send {
    /// The role of a user with this primary group; `None` for one that may do nothing. Root and the hub's own user are
    /// not asked about.
    fn role(&self, uid: u32, gid: u32) -> Option<Role>;

    /// The name of a user.
    fn name(&self, uid: u32) -> Option<String>;

    /// Whether anybody but root and the hub's own user may connect.
    fn is_open(&self) -> bool;
}

/// Root and the hub's own user only.
#[derive(Clone, Copy, Debug, Default)]
pub struct OwnerOnly;

impl Access for OwnerOnly {
    fn role(&self, _: u32, _: u32) -> Option<Role> {
        None
    }

    fn name(&self, _: u32) -> Option<String> {
        None
    }

    fn is_open(&self) -> bool {
        false
    }
}
