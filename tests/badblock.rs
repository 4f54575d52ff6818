//! A disk with a block that cannot be read any more: whom it costs what. The error is a real one, of a loop device whose
//! file ends before the device does. Only root can make such a thing.

use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use zrelay_tests::{Answer, Body, Hub, Mail, SOON, Sink, Step, skip, wait_until};

const ZRELAY: &str = env!("CARGO_BIN_EXE_zrelay");
const DISK_OCTETS: u64 = 64 << 20;
const BLOCK: u64 = 4096;
/// Long enough that a block in the middle of a mail holds nothing else.
const MAIL_OCTETS: usize = 60_000;
/// What reading a bad block says.
const EIO: i32 = 5;

/// A file system on a loop device, gone with this value.
struct Disk {
    image: PathBuf,
    mounted: PathBuf,
}

fn run(program: &str, arguments: &[&str]) -> io::Result<String> {
    let output = Command::new(program).args(arguments).output()?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        return Err(io::Error::other(format!("{program} {arguments:?}: {said}")));
    }
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

fn text(path: &Path) -> &str {
    path.to_str().expect("a path of our own")
}

impl Disk {
    /// Without a journal, and with nothing kept back, so that each block has the owner that it is given here.
    fn make(directory: &Path) -> io::Result<Self> {
        let disk = Self { image: directory.join("disk.img"), mounted: directory.join("spool") };
        fs::create_dir_all(&disk.mounted)?;
        File::create(&disk.image)?.set_len(DISK_OCTETS)?;
        let options = ["-q", "-O", "^has_journal", "-b", "4096", "-m", "0", "-F"];
        run("mkfs.ext4", &[&options[..], &[text(&disk.image)]].concat())?;
        disk.mount()?;
        Ok(disk)
    }

    fn mount(&self) -> io::Result<()> {
        let device = run("losetup", &["--find", "--show", text(&self.image)])?;
        let mounted = run("mount", &["-t", "ext4", &device, text(&self.mounted)]);
        // While it is mounted this waits for the end of that, so that an umount is all there is to clean up.
        run("losetup", &["--detach", &device])?;
        mounted?;
        let name = device.trim_start_matches("/dev/");
        fs::write(format!("/sys/fs/ext4/{name}/reserved_clusters"), "0")
    }

    fn umount(&self) -> io::Result<()> {
        run("umount", &[text(&self.mounted)]).map(drop)
    }

    /// Moves one block of a file to the end of the disk, and lets that end not be there.
    fn spoil(&self, file: &Path, block: u64) -> io::Result<()> {
        let at = block * BLOCK;
        let mut octets = vec![0; BLOCK as usize];
        File::open(file)?.read_exact_at(&mut octets, at)?;
        let (filler, plug) = (self.mounted.join("filler"), self.mounted.join("plug"));
        run("sync", &["--file-system", text(&self.mounted)])?;
        let free = run("df", &["-B1", "--output=avail", text(&self.mounted)])?;
        let free: u64 = free.lines().last().and_then(|free| free.trim().parse().ok()).unwrap_or(DISK_OCTETS);
        // The map of the file takes some blocks as well.
        let mut lengths = (0..64).map(|fewer| (free - fewer * BLOCK).to_string());
        let fits = |length: String| run("fallocate", &["-l", &length, text(&filler)]).is_ok();
        if !lengths.any(fits) {
            return Err(io::ErrorKind::StorageFull.into());
        }
        punch(file, at)?;
        // The old place of the block is taken before the last one of the disk becomes free.
        fill(&plug)?;
        punch(&filler, last_block(&filler)? * BLOCK)?;
        let target = File::options().write(true).open(file)?;
        target.write_all_at(&octets, at)?;
        target.sync_all()?;
        drop(target);
        fs::remove_file(filler)?;
        fs::remove_file(plug)?;
        // Nothing of it stays in memory.
        self.umount()?;
        self.mount()?;
        File::options().write(true).open(&self.image)?.set_len(DISK_OCTETS - BLOCK)
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = run("umount", &["--lazy", text(&self.mounted)]);
    }
}

fn punch(file: &Path, at: u64) -> io::Result<()> {
    run("fallocate", &["-p", "-o", &at.to_string(), "-l", &BLOCK.to_string(), text(file)]).map(drop)
}

/// Writes until the disk is full.
fn fill(path: &Path) -> io::Result<()> {
    let mut file = File::create(path)?;
    while file.write_all(&[1; BLOCK as usize]).is_ok() && file.sync_all().is_ok() {}
    Ok(())
}

/// The block of the file that lies last on the disk. `filefrag` has lines like ` 0:  0..  99:  1066..  1165:  100:`.
fn last_block(file: &Path) -> io::Result<u64> {
    let rows = run("filefrag", &["-v", text(file)])?;
    let numbers = |row: &str| -> Option<(u64, u64)> {
        let mut columns = row.split(':').skip(1);
        let mut last = || columns.next()?.split("..").nth(1)?.trim().parse::<u64>().ok();
        let logical = last()?;
        Some((last()?, logical))
    };
    rows.lines().filter_map(numbers).max().map(|(_, block)| block).ok_or_else(|| io::ErrorKind::NotFound.into())
}

/// The segment with this text, and where.
fn find(spool: &Path, text: &[u8]) -> Option<(PathBuf, u64)> {
    let paths = fs::read_dir(spool).ok()?.flatten().map(|entry| entry.path());
    let mut segments = paths.filter(|path| path.extension().is_some_and(|extension| extension == "seg"));
    segments.find_map(|path| {
        let octets = fs::read(&path).ok()?;
        let at = octets.windows(text.len()).position(|window| window == text)?;
        Some((path, at as u64))
    })
}

fn mail(number: usize) -> Mail {
    Mail::generate(&format!("bad.{number}"), MAIL_OCTETS, Body::Text, "s@a.test", &["r@b.test"])
}

#[test]
fn a_bad_block_costs_the_message_on_it_and_nobody_else() {
    let open = Arc::new(AtomicBool::new(false));
    let asked = open.clone();
    let sink = Sink::build().answer(move |step| match step {
        Step::Mail(_) if !asked.load(Ordering::Relaxed) => Answer::Say("450 4.2.1 not yet".to_owned()),
        _ => Answer::Accept,
    });
    let sink = sink.start();
    let mut hub = Hub::towards(ZRELAY, &sink.host())
        .setting("segment_size", "\"1MiB\"")
        .setting("drain", "\"1s\"")
        .table("[intake]\nreserve = 0")
        .write();
    let disk = match Disk::make(hub.path()) {
        Ok(disk) => disk,
        Err(error) => return skip(&format!("no file system on a loop device here: {error}")),
    };
    hub.start();
    let mails: Vec<Mail> = (0..3).map(mail).collect();
    for mail in &mails {
        assert_eq!(hub.client().mail(&mail.sender, &["r@b.test"], &mail.content).code, 250);
    }
    assert!(wait_until(SOON, || hub.queued() == 3), "{}", hub.json(&["status"]));
    assert!(hub.terminate(SOON).is_some());
    let middle = &mails[1].content[MAIL_OCTETS / 2..][..64];
    let (segment, at) = find(&disk.mounted, middle).expect("the mail is in the spool");
    disk.spoil(&segment, at / BLOCK).expect("the disk can be spoilt");
    let read = File::open(&segment).and_then(|file| file.read_exact_at(&mut [0; 64], at));
    assert_eq!(read.map_err(|error| error.raw_os_error()), Err(Some(EIO)), "the disk is not bad");

    open.store(true, Ordering::Relaxed);
    hub.start();

    let arrived = |mail: &Mail| sink.deliveries().into_iter().any(|(marked, _)| marked == mail.marked());
    assert!(wait_until(SOON, || arrived(&mails[0]) && arrived(&mails[2])), "{}", hub.log());
    let rows = hub.json(&["messages"]);
    let id = rows[0]["message"].as_str().expect("the damaged one is in the queue").to_owned();
    assert_eq!(rows.as_array().map(Vec::len), Some(1), "{rows}");
    let damage = format!("the content of message {id} is damaged");
    assert!(!hub.log_lines(&[&damage]).is_empty(), "{}", hub.log());
    let spool = hub.json(&["status"])["spool"].clone();
    assert!(spool["damage"].as_u64() >= Some(1) && spool["unreadable_pages"].as_u64() >= Some(1), "{spool}");
    // Sooner or later an agent is given it.
    let put_off = wait_until(SOON, || !hub.log_lines(&["status=deferred", &id]).is_empty());
    assert!(put_off && !arrived(&mails[1]), "{}", hub.log());
    let check = hub.zrelay(&["spool", "check"]);
    assert_eq!(check.status.code(), Some(1), "{check:?}");
    let said = String::from_utf8_lossy(&check.stdout);
    assert!(said.contains(&damage), "{said}");
    // And the hub goes on.
    let late = mail(3);
    assert_eq!(hub.client().mail(&late.sender, &["r@b.test"], &late.content).code, 250);
    assert!(wait_until(SOON, || arrived(&late)), "{}", hub.log());
    assert!(hub.zrelay(&["drop", &id]).status.success());
    assert!(hub.wait_until_empty(SOON), "{}", hub.json(&["status"]));
    assert!(hub.terminate(SOON).is_some());
}
