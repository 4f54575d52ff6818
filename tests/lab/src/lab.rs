//! Two namespaces and the line between them.

use std::fs::{self, File};
use std::io;
use std::net::Ipv4Addr;
use std::process::Command;

use crate::link::{Direction, LinkReport, LinkSettings};
use crate::namespace::Namespace;
use crate::tun;

/// Near and far end of the line. Both are visible in their namespaces only.
const ENDS: [Ipv4Addr; 2] = [Ipv4Addr::new(10, 77, 0, 1), Ipv4Addr::new(10, 77, 0, 2)];

/// The device's name, in both namespaces.
const DEVICE: &str = "wan0";

/// Packets that the device itself may hold; far more than ever wait, because the queue that counts is the line's.
const DEVICE_QUEUE: &str = "20000";

/// Two namespaces joined by a line. All of it is gone when this is dropped, or with the process.
#[derive(Debug)]
pub struct Lab {
    // First, so that they end before the namespaces go.
    forth: Direction,
    back: Direction,
    near: Namespace,
    far: Namespace,
    settings: LinkSettings,
}

/// Why a laboratory cannot be built.
#[derive(Debug)]
pub enum LabError {
    /// It takes root to make namespaces and devices.
    NotRoot,
    /// The system refused something: what, and why.
    System(&'static str, io::Error),
    /// A set-up command failed: the command, and what it said.
    Command(String, String),
}

impl std::fmt::Display for LabError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::NotRoot => f.write_str("needs root: it makes network namespaces and TUN devices; run it with sudo"),
            Self::System(what, error) => write!(f, "{what}: {error}"),
            Self::Command(command, said) => write!(f, "{command}: {said}"),
        }
    }
}

impl std::error::Error for LabError {}

impl Lab {
    /// Builds one for a test, with `reno`. Without root the test is skipped; `None` too in a container, whose root has no
    /// right to make devices.
    ///
    /// # Panics
    /// As [`zrelay_tests::skip`] does.
    pub fn for_test(settings: LinkSettings) -> Option<Self> {
        match Self::build(settings, "reno") {
            Ok(lab) => Some(lab),
            Err(LabError::NotRoot) => {
                zrelay_tests::skip("needs root");
                None
            }
            Err(error) => {
                eprintln!("left out, there is no laboratory here: {error}");
                None
            }
        }
    }

    /// Builds one. `congestion` is the congestion control of all connections in it, such as `cubic`.
    ///
    /// # Errors
    /// Not root, no `/dev/net/tun`, no `ip` command, no such congestion control.
    pub fn build(settings: LinkSettings, congestion: &str) -> Result<Self, LabError> {
        if !nix::unistd::geteuid().is_root() {
            return Err(LabError::NotRoot);
        }
        let near = Namespace::new().map_err(|error| LabError::System("cannot make a network namespace", error))?;
        let far = Namespace::new().map_err(|error| LabError::System("cannot make a network namespace", error))?;
        let [(near_in, near_out), (far_in, far_out)] =
            [attach(&near, ENDS, congestion)?, attach(&far, [ENDS[1], ENDS[0]], congestion)?];
        let forth = Direction::start(settings, near_in, far_out);
        let back = Direction::start(LinkSettings { seed: !settings.seed, ..settings }, far_in, near_out);
        Ok(Self { forth, back, near, far, settings })
    }

    /// Where the relay goes.
    pub fn near(&self) -> &Namespace {
        &self.near
    }

    /// Where the next hop goes.
    pub fn far(&self) -> &Namespace {
        &self.far
    }

    /// The far end's address.
    pub fn far_address(&self) -> Ipv4Addr {
        ENDS[1]
    }

    /// The line.
    pub fn settings(&self) -> LinkSettings {
        self.settings
    }

    /// What went over it so far: towards the far end, and back.
    pub fn reports(&self) -> [LinkReport; 2] {
        [self.forth.report(), self.back.report()]
    }
}

/// A device in this namespace with its own and the other end's address, to read from and to write to.
fn attach(namespace: &Namespace, [own, other]: [Ipv4Addr; 2], congestion: &str) -> Result<(File, File), LabError> {
    let device = namespace
        .run(|| end(own, other, congestion))
        .map_err(|error| LabError::System("cannot enter a network namespace", error))??;
    let twice = device.try_clone().map_err(|error| LabError::System("cannot copy a descriptor", error))?;
    Ok((device, twice))
}

/// Sets one end up, in the namespace of the calling thread.
fn end(own: Ipv4Addr, other: Ipv4Addr, congestion: &str) -> Result<File, LabError> {
    let device = tun::open(DEVICE).map_err(|error| LabError::System("cannot make a TUN device", error))?;
    let (own, other) = (own.to_string(), other.to_string());
    ip(&["link", "set", "lo", "up"])?;
    ip(&["address", "add", &own, "dev", DEVICE])?;
    ip(&["link", "set", DEVICE, "mtu", "1500", "txqueuelen", DEVICE_QUEUE, "up"])?;
    // On the route, because a namespace may not choose every congestion control by sysctl.
    ip(&["route", "add", &other, "dev", DEVICE, "src", &own, "congctl", congestion])?;
    // Otherwise one connection begins with what an earlier one has learned of the line.
    set("tcp_no_metrics_save", "1")?;
    Ok(device)
}

fn ip(arguments: &[&str]) -> Result<(), LabError> {
    let command = || format!("ip {}", arguments.join(" "));
    let output = Command::new("ip").args(arguments).output();
    let output = output.map_err(|error| LabError::Command(command(), error.to_string()))?;
    if output.status.success() {
        return Ok(());
    }
    Err(LabError::Command(command(), String::from_utf8_lossy(&output.stderr).trim().to_owned()))
}

fn set(name: &str, value: &str) -> Result<(), LabError> {
    fs::write(format!("/proc/sys/net/ipv4/{name}"), value)
        .map_err(|error| LabError::Command(format!("sysctl net.ipv4.{name}={value}"), error.to_string()))
}
