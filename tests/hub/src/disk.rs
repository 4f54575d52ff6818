//! A small file system for a hub: a tmpfs in a mount namespace of its own, which outlives the hub's starts and ends.

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};

use crate::{Process, SOON, wait_until};

/// The namespace lasts as long as the process that sleeps in it.
#[derive(Debug)]
pub(crate) struct SmallDisk {
    keeper: Process,
}

impl SmallDisk {
    /// So many octets, mounted at a directory. As another user than root it needs user namespaces.
    ///
    /// # Panics
    /// When it cannot be mounted.
    pub(crate) fn mount(octets: u64, at: &Path, directory: &Path) -> Self {
        const MOUNT: &str = r#"mount -t tmpfs -o mode=700,size="$1" tmpfs "$2" && exec sleep infinity"#;
        let mut keeper = Process::start("disk", directory, "unshare", |command| {
            command.args(if is_root() { &[][..] } else { &["--user", "--map-root-user"] });
            command.args(["--mount", "--", "sh", "-c", MOUNT, "sh", &octets.to_string()]).arg(at);
        });
        let mounts = format!("/proc/{}/mountinfo", keeper.id());
        let at = format!(" {} ", at.display());
        let mounted = wait_until(SOON, || {
            assert!(keeper.status().is_none(), "no file system could be mounted: {}", keeper.errors());
            fs::read_to_string(&mounts).is_ok_and(|mounts| mounts.contains(&at))
        });
        assert!(mounted, "no file system is mounted at{at}");
        Self { keeper }
    }

    /// The command that runs a program where this is mounted, in a directory; program and arguments follow.
    pub(crate) fn enter(&self, directory: &Path) -> Vec<OsString> {
        let user: &[&str] = if is_root() { &[] } else { &["--user", "--preserve-credentials"] };
        let target = ["nsenter", "--target", &self.keeper.id().to_string(), "--mount"].map(OsString::from);
        let mut wd = OsString::from("--wd=");
        wd.push(directory);
        target.into_iter().chain(user.iter().map(OsString::from)).chain([wd, "--".into()]).collect()
    }

    /// Where `path` of that namespace is for us.
    pub(crate) fn seen_from_outside(&self, path: &Path) -> PathBuf {
        let inside = path.strip_prefix("/").unwrap_or(path);
        PathBuf::from(format!("/proc/{}/root", self.keeper.id())).join(inside)
    }
}

fn is_root() -> bool {
    nix::unistd::geteuid().is_root()
}
