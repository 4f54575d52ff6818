//! All access to files, behind one trait, so that tests can tear writes, lose them, fill the disk and break it.

use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use zrelay_sys::{AppendFile, Map};

/// A segment as readers see it.
pub(crate) trait View: Send + Sync {
    /// The octets `offset..offset + length`, if they are all published.
    fn get(&self, offset: u32, length: u32) -> Option<&[u8]>;
    /// Octets published.
    fn len(&self) -> u32;
}

/// A segment as the appender fills it.
pub(crate) trait SegmentFile: Send {
    /// Writes at `offset`; neither visible nor durable yet.
    fn write(&mut self, offset: u32, bytes: &[u8]) -> io::Result<()>;
    /// Makes what was written durable. After an error it is not, whatever a second attempt says.
    fn sync(&mut self) -> io::Result<()>;
    /// Shows readers what lies below `end`.
    fn publish(&mut self, end: u32);
    /// Gives unused space from `end` on back; nothing is written any more.
    fn release(&mut self, end: u32);
    /// The readers' side.
    fn view(&self) -> Arc<dyn View>;
}

/// A directory of segments.
pub(crate) trait Storage: Send {
    /// The numbers of the segments that are there, in any order.
    fn list(&mut self) -> io::Result<Vec<u32>>;
    /// A new segment of `octets`, reading as zeros.
    fn create(&mut self, number: u32, octets: u32) -> io::Result<Box<dyn SegmentFile>>;
    /// An existing segment, all of it published, after making durable what it holds.
    fn open(&mut self, number: u32) -> io::Result<Arc<dyn View>>;
    /// Removes a segment; views of it stay valid.
    fn remove(&mut self, number: u32) -> io::Result<()>;
    /// Makes creations and removals durable.
    fn sync_directory(&mut self) -> io::Result<()>;
    /// Octets that can still be used.
    fn free(&mut self) -> io::Result<u64>;
    /// The checkpoint, if there is one and it is wanted.
    fn checkpoint(&mut self) -> io::Result<Option<Arc<dyn View>>>;
    /// The checkpoint is of no use: it goes out of the way.
    fn set_checkpoint_aside(&mut self) -> io::Result<()>;
    /// For a new one.
    fn checkpoint_file(&self) -> Box<dyn CheckpointFile>;
}

/// A checkpoint that is being written, under a name of its own.
pub(crate) trait CheckpointFile: Send {
    /// Writes behind what was written before; the first time, a new file.
    fn write(&mut self, bytes: &[u8]) -> io::Result<()>;
    /// Makes it durable, and the checkpoint in place of the one before.
    fn commit(&mut self) -> io::Result<Arc<dyn View>>;
}

/// The real thing.
#[derive(Debug)]
pub(crate) struct Disk {
    directory: PathBuf,
}

impl Disk {
    pub(crate) fn new(directory: &Path) -> Self {
        Self { directory: directory.to_owned() }
    }

    fn path(&self, number: u32) -> PathBuf {
        self.directory.join(format!("{number:08}.seg"))
    }
}

impl Storage for Disk {
    fn list(&mut self) -> io::Result<Vec<u32>> {
        let mut numbers = Vec::new();
        for entry in fs::read_dir(&self.directory)? {
            let name = entry?.file_name();
            let number: Option<u32> = name.to_str().and_then(|name| name.strip_suffix(".seg")?.parse().ok());
            numbers.extend(number);
        }
        Ok(numbers)
    }

    fn create(&mut self, number: u32, octets: u32) -> io::Result<Box<dyn SegmentFile>> {
        Ok(Box::new(AppendFile::create(&self.path(number), octets.into())?))
    }

    fn open(&mut self, number: u32) -> io::Result<Arc<dyn View>> {
        let path = self.path(number);
        fs::File::open(&path)?.sync_data()?;
        Ok(Arc::new(Map::open(&path)?))
    }

    fn remove(&mut self, number: u32) -> io::Result<()> {
        fs::remove_file(self.path(number))
    }

    fn sync_directory(&mut self) -> io::Result<()> {
        fs::File::open(&self.directory)?.sync_all()
    }

    fn free(&mut self) -> io::Result<u64> {
        let figures = rustix::fs::statvfs(&self.directory)?;
        Ok(figures.f_bavail.saturating_mul(figures.f_frsize))
    }

    fn checkpoint(&mut self) -> io::Result<Option<Arc<dyn View>>> {
        match Map::open(&self.directory.join(CHECKPOINT)) {
            Ok(map) => Ok(Some(Arc::new(map))),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn set_checkpoint_aside(&mut self) -> io::Result<()> {
        fs::rename(self.directory.join(CHECKPOINT), self.directory.join("checkpoint.bad"))
    }

    fn checkpoint_file(&self) -> Box<dyn CheckpointFile> {
        Box::new(DiskCheckpoint { directory: self.directory.clone(), file: None })
    }
}

const CHECKPOINT: &str = "checkpoint";

struct DiskCheckpoint {
    directory: PathBuf,
    file: Option<fs::File>,
}

impl DiskCheckpoint {
    fn new_name(&self) -> PathBuf {
        self.directory.join("checkpoint.new")
    }
}

impl CheckpointFile for DiskCheckpoint {
    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        let file = match &mut self.file {
            Some(file) => file,
            none => {
                let options =
                    fs::File::options().read(true).write(true).create(true).truncate(true).mode(0o600).clone();
                none.insert(options.open(self.directory.join("checkpoint.new"))?)
            }
        };
        file.write_all(bytes)
    }

    fn commit(&mut self) -> io::Result<Arc<dyn View>> {
        let file = self.file.take().ok_or(io::ErrorKind::NotFound)?;
        file.sync_all()?;
        let map = Map::open(&self.new_name())?;
        fs::rename(self.new_name(), self.directory.join(CHECKPOINT))?;
        fs::File::open(&self.directory)?.sync_all()?;
        Ok(Arc::new(map))
    }
}

/// A directory that is looked at and not touched, even while a hub writes to it.
///
/// The newest segment may still be filled, so it is read as it is now; all others never change below their ends.
#[derive(Debug)]
pub(crate) struct Frozen {
    disk: Disk,
    newest: u32,
}

impl Frozen {
    pub(crate) fn new(directory: &Path) -> Self {
        Self { disk: Disk::new(directory), newest: 0 }
    }
}

impl Storage for Frozen {
    fn list(&mut self) -> io::Result<Vec<u32>> {
        let numbers = self.disk.list()?;
        self.newest = numbers.iter().copied().max().unwrap_or(0);
        Ok(numbers)
    }

    fn create(&mut self, _: u32, _: u32) -> io::Result<Box<dyn SegmentFile>> {
        Err(io::ErrorKind::ReadOnlyFilesystem.into())
    }

    fn open(&mut self, number: u32) -> io::Result<Arc<dyn View>> {
        let path = self.disk.path(number);
        Ok(if number == self.newest { Arc::new(Octets(fs::read(path)?)) } else { Arc::new(Map::open(&path)?) })
    }

    fn remove(&mut self, _: u32) -> io::Result<()> {
        Err(io::ErrorKind::ReadOnlyFilesystem.into())
    }

    fn sync_directory(&mut self) -> io::Result<()> {
        Err(io::ErrorKind::ReadOnlyFilesystem.into())
    }

    fn free(&mut self) -> io::Result<u64> {
        self.disk.free()
    }

    /// Every record is to be looked at.
    fn checkpoint(&mut self) -> io::Result<Option<Arc<dyn View>>> {
        Ok(None)
    }

    fn set_checkpoint_aside(&mut self) -> io::Result<()> {
        Err(io::ErrorKind::ReadOnlyFilesystem.into())
    }

    fn checkpoint_file(&self) -> Box<dyn CheckpointFile> {
        self.disk.checkpoint_file()
    }
}

/// A segment that was read into memory.
struct Octets(Vec<u8>);

impl View for Octets {
    fn get(&self, offset: u32, length: u32) -> Option<&[u8]> {
        self.0.get(offset as usize..(offset as usize).checked_add(length as usize)?)
    }

    fn len(&self) -> u32 {
        u32::try_from(self.0.len()).unwrap_or(u32::MAX)
    }
}

impl View for Map {
    fn get(&self, offset: u32, length: u32) -> Option<&[u8]> {
        Self::get(self, offset.into(), length.into())
    }

    fn len(&self) -> u32 {
        u32::try_from(self.published()).unwrap_or(u32::MAX)
    }
}

impl SegmentFile for AppendFile {
    fn write(&mut self, offset: u32, bytes: &[u8]) -> io::Result<()> {
        Self::write(self, offset.into(), bytes)
    }

    fn sync(&mut self) -> io::Result<()> {
        Self::sync(self)
    }

    fn publish(&mut self, end: u32) {
        Self::publish(self, end.into());
    }

    fn release(&mut self, end: u32) {
        Self::release(self, end.into());
    }

    fn view(&self) -> Arc<dyn View> {
        self.map()
    }
}
