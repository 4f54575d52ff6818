//! The segments on disk, octet by octet. All numbers are little-endian.
//!
//! A spool directory holds `lock` and the segments `00000001.seg`, `00000002.seg`, ... A segment has its full size from
//! its creation on and is filled from the front. Its octets are written once. Numbers rise; one that a checkpoint knows is
//! not used again, though all segments from there on may be gone.
//!
//! **Segment header**, 64 octets:
//!
//! | at | octets | what |
//! |---:|---:|---|
//! | 0 | 8 | `ZRELAYSG` |
//! | 8 | 4 | format version, [`VERSION`] |
//! | 12 | 4 | segment number, as in the file's name |
//! | 16 | 8 | when it was created, microseconds since the Unix epoch |
//! | 24 | 4 | size of the file |
//! | 28 | 32 | zero |
//! | 60 | 4 | CRC-32 of the 60 octets before |
//!
//! Later versions keep the first 12 octets and the checksum where they are, so that an older hub can refuse them.
//!
//! **Records** follow, each at a multiple of 4:
//!
//! | at | octets | what |
//! |---:|---:|---|
//! | 0 | 1 | [`Kind`] |
//! | 1 | 3 | `B5 5A 52`, to find records behind a damaged one |
//! | 4 | 4 | octets of the body |
//! | 8 | 4 | the offset in this segment below which all was durable when this record was written |
//! | 12 | 4 | CRC-32 of the body |
//! | 16 | 4 | CRC-32 of segment number, offset of this record, and the 16 octets before |
//! | 20 | | the body |
//!
//! The header has a checksum of its own, so that a damaged body does not cost the records behind it; the checksum
//! covers the position, so that octets of a message that look like a record are not taken for one.
//!
//! The first record of a segment is [`Kind::Segments`]: the highest queue id used so far, and number and end of every
//! older segment that is still needed. It is durable before anything else is written to the segment. So the newest
//! segment tells where each older one ends (**fence**): what lies behind that end, as after a failed `fdatasync`, is
//! not believed; and an older segment that is not in the list has been reclaimed.
//!
//! **Where the newest segment ends** nobody has written down: the hub may have died at any time, and of what was not
//! synced any part may have reached the disk. The third field of the record headers decides. Its highest value M in
//! the segment is known to have been durable; the log ends at the first place from M on where no intact record stands
//! (a torn tail). A place below M without an intact record is damage done later by the disk: it is reported, and
//! reading goes on at the next intact record.

use crate::storage::View;

/// What every segment begins with.
const MAGIC: &[u8; 8] = b"ZRELAYSG";
/// The format written here. Version 1 had no [`Kind::Moved`], version 2 no [`Kind::Rerouted`], no handling of messages
/// and no notices of delay, version 3 no [`Kind::MovedWithHistory`]; they are read as well.
pub(crate) const VERSION: u32 = 4;
/// Octets of a segment's header.
pub(crate) const SEGMENT_HEADER: u32 = 64;
/// Octets of a record's header.
pub(crate) const RECORD_HEADER: u32 = 20;
/// Records start at multiples of this.
pub(crate) const ALIGN: u32 = 4;
const MARK: [u8; 3] = [0xb5, b'Z', b'R'];
/// Largest body of a record: an envelope of some million recipients. Bounds what recovery believes of a length field.
pub(crate) const BODY_MAX: u32 = 256 << 20;

/// What a record is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub(crate) enum Kind {
    /// The older segments; see the module's head.
    Segments = 1,
    /// Octets of a message's content, nothing else.
    Piece = 2,
    /// A message is in the queue; see [`crate::message`].
    Message = 3,
    /// The other kinds are in [`crate::record`].
    Routed = 4,
    Outcomes = 5,
    Batch = 6,
    Thread = 7,
    Settled = 8,
    Finished = 9,
    /// In versions 2 and 3.
    Moved = 10,
    /// Since version 3.
    Rerouted = 11,
    /// Since version 4.
    MovedWithHistory = 12,
}

impl Kind {
    fn from_octet(octet: u8) -> Option<Self> {
        const KINDS: [Kind; 12] = [
            Kind::Segments,
            Kind::Piece,
            Kind::Message,
            Kind::Routed,
            Kind::Outcomes,
            Kind::Batch,
            Kind::Thread,
            Kind::Settled,
            Kind::Finished,
            Kind::Moved,
            Kind::Rerouted,
            Kind::MovedWithHistory,
        ];
        KINDS.into_iter().find(|kind| *kind as u8 == octet)
    }
}

/// Octets that a record with a body of `length` takes in a segment.
pub(crate) fn framed(length: u32) -> u32 {
    (RECORD_HEADER + length).next_multiple_of(ALIGN)
}

/// The header of segment `number`.
pub(crate) fn segment_header(number: u32, created: u64, octets: u32) -> [u8; SEGMENT_HEADER as usize] {
    let mut header = [0; SEGMENT_HEADER as usize];
    header[..8].copy_from_slice(MAGIC);
    header[8..12].copy_from_slice(&VERSION.to_le_bytes());
    header[12..16].copy_from_slice(&number.to_le_bytes());
    header[16..24].copy_from_slice(&created.to_le_bytes());
    header[24..28].copy_from_slice(&octets.to_le_bytes());
    let checksum = crc32fast::hash(&header[..60]);
    header[60..].copy_from_slice(&checksum.to_le_bytes());
    header
}

/// What a segment's first octets say of it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Heading {
    /// One of ours.
    Good,
    /// Written by a later hub.
    Newer(u32),
    /// Unreadable: creation was cut short, or the disk has lost it.
    Damaged,
}

/// Judges the header of segment `number`.
pub(crate) fn heading(view: &dyn View, number: u32) -> Heading {
    let Some(header) = view.get(0, SEGMENT_HEADER) else { return Heading::Damaged };
    let sound = header.starts_with(MAGIC) && u32_at(header, 60) == Some(crc32fast::hash(&header[..60]));
    match (sound, u32_at(header, 8)) {
        (true, Some(1..=VERSION)) if u32_at(header, 12) == Some(number) => Heading::Good,
        (true, Some(version)) if version > VERSION => Heading::Newer(version),
        _ => Heading::Damaged,
    }
}

/// Appends a whole record to `buffer`, which will be written to `segment` such that the record starts at `offset`.
pub(crate) fn frame(buffer: &mut Vec<u8>, segment: u32, offset: u32, synced: u32, kind: Kind, body: &[u8]) {
    let start = buffer.len();
    buffer.push(kind as u8);
    buffer.extend_from_slice(&MARK);
    buffer.extend_from_slice(&(body.len() as u32).to_le_bytes());
    buffer.extend_from_slice(&synced.to_le_bytes());
    buffer.extend_from_slice(&crc32fast::hash(body).to_le_bytes());
    let checksum = header_checksum(segment, offset, &buffer[start..]);
    buffer.extend_from_slice(&checksum.to_le_bytes());
    buffer.extend_from_slice(body);
    let padded = start + framed(body.len() as u32) as usize;
    buffer.resize(padded, 0);
}

fn header_checksum(segment: u32, offset: u32, header: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&segment.to_le_bytes());
    hasher.update(&offset.to_le_bytes());
    hasher.update(header);
    hasher.finalize()
}

pub(crate) fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    let field = bytes.get(at..at.checked_add(4)?)?;
    Some(u32::from_le_bytes(field.try_into().ok()?))
}

pub(crate) fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    let field = bytes.get(at..at.checked_add(8)?)?;
    Some(u64::from_le_bytes(field.try_into().ok()?))
}

/// A record that was found in a segment.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Found {
    pub(crate) kind: Kind,
    /// Where its header is.
    pub(crate) at: u32,
    /// Where its body is.
    pub(crate) offset: u32,
    pub(crate) length: u32,
    pub(crate) synced: u32,
    checksum: u32,
}

impl Found {
    /// Reads the header at `at`, if an intact one is there and the body fits below `end`.
    pub(crate) fn at(view: &dyn View, segment: u32, at: u32, end: u32) -> Option<Self> {
        let header = view.get(at, RECORD_HEADER)?;
        if header[1..4] != MARK || u32_at(header, 16)? != header_checksum(segment, at, &header[..16]) {
            return None;
        }
        let (kind, length) = (Kind::from_octet(header[0])?, u32_at(header, 4)?);
        let next = (length <= BODY_MAX).then(|| at.checked_add(framed(length)))??;
        let (synced, checksum) = (u32_at(header, 8)?, u32_at(header, 12)?);
        (next <= end).then_some(Self { kind, at, offset: at + RECORD_HEADER, length, synced, checksum })
    }

    /// Whether the body is what was written.
    pub(crate) fn is_intact(&self, view: &dyn View) -> bool {
        self.body(view).is_some_and(|body| crc32fast::hash(body) == self.checksum)
    }

    pub(crate) fn body<'a>(&self, view: &'a dyn View) -> Option<&'a [u8]> {
        view.get(self.offset, self.length)
    }

    fn next(&self) -> u32 {
        self.at + framed(self.length)
    }
}

/// What stands next in a segment.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Step {
    /// A record with an intact header. Its body is not checked yet.
    Record(Found),
    /// No record from here to there.
    Gap(u32, u32),
}

/// Walks through the records of a segment.
pub(crate) struct Scan<'a> {
    view: &'a dyn View,
    segment: u32,
    at: u32,
    end: u32,
}

impl<'a> Scan<'a> {
    /// The places behind `from` where a record may start. One slice, because most of them are in megabytes of zeros.
    fn marks_behind(&self, from: u32) -> impl Iterator<Item = u32> + use<'a> {
        let first = from + ALIGN;
        let octets = self.view.get(first + 1, self.end.saturating_sub(first + 1)).unwrap_or_default();
        let places = octets.chunks(ALIGN as usize).zip((first..).step_by(ALIGN as usize));
        places.filter(|(octets, _)| octets.starts_with(&MARK)).map(|(_, at)| at)
    }

    /// From the first record to `end`.
    pub(crate) fn new(view: &'a dyn View, segment: u32, end: u32) -> Self {
        Self::resume(view, segment, SEGMENT_HEADER, end)
    }

    /// From the record at `at` to `end`.
    pub(crate) fn resume(view: &'a dyn View, segment: u32, at: u32, end: u32) -> Self {
        Self { view, segment, at, end: end.min(view.len()) }
    }

    /// Where the next record is.
    pub(crate) fn position(&self) -> u32 {
        self.at
    }
}

impl Iterator for Scan<'_> {
    type Item = Step;

    fn next(&mut self) -> Option<Step> {
        if self.at >= self.end {
            return None;
        }
        if let Some(found) = Found::at(self.view, self.segment, self.at, self.end) {
            self.at = found.next();
            return Some(Step::Record(found));
        }
        let from = self.at;
        let next = self.marks_behind(from).find(|at| Found::at(self.view, self.segment, *at, self.end).is_some());
        self.at = next.unwrap_or(self.end);
        Some(Step::Gap(from, self.at))
    }
}

/// What a segment whose end nobody has written down says of itself; see the module's head.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Torn {
    /// Below this all was durable once; 0 when no record says so.
    pub(crate) durable: u32,
    /// Where it ends.
    pub(crate) end: u32,
}

impl Torn {
    /// Looks at all of a segment.
    pub(crate) fn of(view: &dyn View, segment: u32) -> Self {
        let mut durable = 0;
        let mut holes = Vec::new();
        for step in Scan::new(view, segment, view.len()) {
            match step {
                Step::Record(found) if found.is_intact(view) => durable = durable.max(found.synced),
                Step::Record(found) => holes.push(found.at),
                Step::Gap(from, _) => holes.push(from),
            }
        }
        let end = holes.into_iter().find(|at| *at >= durable).unwrap_or_else(|| view.len().max(SEGMENT_HEADER));
        Self { durable, end }
    }

    /// Whether the segment was finished being made: its head was durable before anything was written behind it.
    pub(crate) fn was_begun(&self) -> bool {
        self.durable > SEGMENT_HEADER
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Octets(Vec<u8>);

    impl View for Octets {
        fn get(&self, offset: u32, length: u32) -> Option<&[u8]> {
            self.0.get(offset as usize..offset as usize + length as usize)
        }
        fn len(&self) -> u32 {
            self.0.len() as u32
        }
    }

    /// Four records with ten octets each; the second half was written when the first was durable.
    fn segment() -> (Octets, Vec<u32>) {
        let mut octets = segment_header(7, 0, 4096).to_vec();
        let mut starts = Vec::new();
        for (n, synced) in [(0, 64), (1, 64), (2, 128), (3, 128)] {
            let at = octets.len() as u32;
            starts.push(at);
            frame(&mut octets, 7, at, synced, Kind::Piece, &[n; 10]);
        }
        starts.push(octets.len() as u32);
        octets.resize(4096, 0);
        (Octets(octets), starts)
    }

    fn bodies(view: &Octets, end: u32) -> Vec<u8> {
        let intact = Scan::new(view, 7, end).filter_map(|step| match step {
            Step::Record(found) if found.is_intact(view) => Some(found.body(view).unwrap()[0]),
            _ => None,
        });
        intact.collect()
    }

    #[test]
    fn the_log_ends_where_zeros_begin() {
        let (view, starts) = segment();
        assert_eq!(heading(&view, 7), Heading::Good);
        assert_eq!(heading(&view, 8), Heading::Damaged);
        assert_eq!(Torn::of(&view, 7).end, starts[4]);
        assert_eq!(bodies(&view, starts[4]), [0, 1, 2, 3]);
    }

    #[test]
    fn a_torn_record_in_the_unsynced_tail_ends_the_log_whatever_stands_behind_it() {
        let (mut view, starts) = segment();
        view.0[starts[2] as usize + 21] ^= 1;
        assert_eq!(Torn::of(&view, 7).end, starts[2]);
    }

    #[test]
    fn a_damaged_record_that_was_durable_does_not_take_others_with_it() {
        for octet in 0..32 {
            let (mut view, starts) = segment();
            view.0[starts[1] as usize + octet] ^= 0xff;
            assert_eq!(Torn::of(&view, 7).end, starts[4], "octet {octet}");
            let expected: &[u8] = if octet >= 30 { &[0, 1, 2, 3] } else { &[0, 2, 3] };
            assert_eq!(bodies(&view, starts[4]), expected, "octet {octet}");
        }
    }

    #[test]
    fn a_record_is_believed_at_its_own_place_only() {
        let (mut view, starts) = segment();
        let copy = view.0[starts[0] as usize..starts[1] as usize].to_vec();
        view.0[starts[4] as usize..starts[4] as usize + copy.len()].copy_from_slice(&copy);
        assert_eq!(Torn::of(&view, 7).end, starts[4]);
        assert_eq!(Found::at(&view, 8, starts[0], 4096), None);
    }

    #[test]
    fn a_later_format_is_told_from_damage() {
        let mut header = segment_header(7, 0, 4096);
        header[8] = 9;
        assert_eq!(heading(&Octets(header.to_vec()), 7), Heading::Damaged);
        let checksum = crc32fast::hash(&header[..60]);
        header[60..].copy_from_slice(&checksum.to_le_bytes());
        assert_eq!(heading(&Octets(header.to_vec()), 7), Heading::Newer(9));
    }
}
