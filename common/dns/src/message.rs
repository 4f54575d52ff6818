//! DNS messages: the only module that knows the codec. Names leave it in the form of [`crate::name`].

use std::collections::HashMap;
use std::net::IpAddr;

use hickory_proto::op::{Edns as EdnsRecord, Header, Message, MessageType, OpCode, Query, ResponseCode};
use hickory_proto::rr::{DNSClass, RData, Record, RecordType};
use hickory_proto::serialize::binary::{BinDecodable, BinDecoder};

use crate::name::{plain, wire};

/// Answers over UDP above this are cut, so that none is in fragments (DNS flag day 2020).
const UDP_PAYLOAD_MAX: u16 = 1232;

/// Aliases followed in a row; recursive servers stop at about as many.
pub(crate) const ALIASES_MAX: usize = 8;

/// Records of one answer that are kept: far more than any host or domain has use for.
const RECORDS_MAX: usize = 100;

/// What is looked up for a name.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(crate) enum Kind {
    /// Mail exchanges.
    Mx,
    /// IPv4 addresses.
    A,
    /// IPv6 addresses.
    Aaaa,
}

impl Kind {
    /// As in zone files.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Mx => "MX",
            Self::A => "A",
            Self::Aaaa => "AAAA",
        }
    }

    fn of(record_type: RecordType) -> Option<Self> {
        match record_type {
            RecordType::MX => Some(Self::Mx),
            RecordType::A => Some(Self::A),
            RecordType::AAAA => Some(Self::Aaaa),
            _ => None,
        }
    }

    fn record_type(self) -> RecordType {
        match self {
            Self::Mx => RecordType::MX,
            Self::A => RecordType::A,
            Self::Aaaa => RecordType::AAAA,
        }
    }
}

/// Whether a query bears EDNS0 (RFC 6891).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Edns {
    On,
    /// For servers that answered FORMERR.
    Off,
}

/// A query for the wire; none for a name that cannot be sent.
pub(crate) fn encode(id: u16, name: &str, kind: Kind, edns: Edns) -> Option<Vec<u8>> {
    let mut message = Message::new(id, MessageType::Query, OpCode::Query);
    message.metadata.recursion_desired = true;
    message.add_query(Query::query(wire(name)?, kind.record_type()));
    if edns == Edns::On {
        let mut record = EdnsRecord::new();
        record.set_max_payload(UDP_PAYLOAD_MAX);
        message.set_edns(record);
    }
    message.to_vec().ok()
}

/// A response as far as this crate cares.
#[derive(Debug)]
pub(crate) struct Response {
    pub(crate) id: u16,
    /// The name of its one question.
    pub(crate) name: String,
    /// The type of its one question; the class is IN.
    pub(crate) kind: Kind,
    pub(crate) content: Content,
}

/// What a response says.
#[derive(PartialEq, Eq, Debug)]
pub(crate) enum Content {
    /// Too long for UDP.
    Truncated,
    /// The server cannot or does not want to answer; its response code.
    Failure(String),
    /// The server does not understand the query (FORMERR, NOTIMP, BADVERS): perhaps it does without EDNS0.
    Misunderstood,
    /// The records cannot be read.
    Unreadable,
    /// An answer.
    Answer(Answer),
}

/// An answer about one name and kind. Times to live in seconds.
#[derive(PartialEq, Eq, Debug)]
pub(crate) enum Answer {
    /// Exchanges with their preferences; the empty name is the root.
    Exchanges { exchanges: Vec<(u16, String)>, ttl: u32 },
    /// Addresses.
    Addresses { addresses: Vec<IpAddr>, ttl: u32 },
    /// The name has no such records.
    NoData { ttl: u32 },
    /// There is no such name.
    NoDomain { ttl: u32 },
    /// The name is an alias and the server stopped there.
    Alias(String),
    /// The aliases go on for too long.
    Loop,
}

/// Reads a response; none for what is not a response with exactly one question of a kind that is asked here.
pub(crate) fn decode(octets: &[u8]) -> Option<Response> {
    let mut decoder = BinDecoder::new(octets);
    let header = Header::read(&mut decoder).ok()?;
    let metadata = &header.metadata;
    if metadata.message_type != MessageType::Response || metadata.op_code != OpCode::Query || header.counts.queries != 1
    {
        return None;
    }
    let queries = Message::read_queries(&mut decoder, 1).ok()?;
    let query = queries.first().filter(|query| query.query_class() == DNSClass::IN)?;
    let (name, kind) = (plain(query.name()), Kind::of(query.query_type())?);
    // The rest of a truncated message may end in the middle of a record.
    let content = match metadata.truncation {
        true => Content::Truncated,
        false => Message::from_vec(octets).map_or(Content::Unreadable, |message| content(&message, &name, kind)),
    };
    Some(Response { id: metadata.id, name, kind, content })
}

fn content(message: &Message, name: &str, kind: Kind) -> Content {
    match message.metadata.response_code {
        ResponseCode::NoError | ResponseCode::NXDomain => Content::Answer(answer(message, name, kind)),
        ResponseCode::FormErr | ResponseCode::NotImp | ResponseCode::BADVERS => Content::Misunderstood,
        code => Content::Failure(code.to_str().to_owned()),
    }
}

fn answer(message: &Message, name: &str, kind: Kind) -> Answer {
    let mut owner = name.to_owned();
    let mut ttl = u32::MAX;
    let aliases = aliases(&message.answers);
    for _ in 0..=ALIASES_MAX {
        let Some((target, alias_ttl)) = aliases.get(&owner) else {
            return at_end(message, name, &owner, kind, ttl);
        };
        ttl = ttl.min(*alias_ttl);
        owner.clone_from(target);
    }
    Answer::Loop
}

fn aliases(records: &[Record]) -> HashMap<String, (String, u32)> {
    let alias = |record: &Record| match &record.data {
        RData::CNAME(target) => Some((plain(&record.name), (plain(&target.0), record.ttl))),
        _ => None,
    };
    records.iter().take(RECORDS_MAX).filter_map(alias).collect()
}

fn at_end(message: &Message, name: &str, owner: &str, kind: Kind, mut ttl: u32) -> Answer {
    let (mut exchanges, mut addresses) = (Vec::new(), Vec::new());
    for record in message.answers.iter().take(RECORDS_MAX) {
        if record.dns_class != DNSClass::IN || plain(&record.name) != owner {
            continue;
        }
        match (&record.data, kind) {
            (RData::MX(mx), Kind::Mx) => exchanges.push((mx.preference, plain(&mx.exchange))),
            (RData::A(address), Kind::A) => addresses.push(IpAddr::V4(address.0)),
            (RData::AAAA(address), Kind::Aaaa) => addresses.push(IpAddr::V6(address.0)),
            _ => continue,
        }
        ttl = ttl.min(record.ttl);
    }
    if !exchanges.is_empty() {
        return Answer::Exchanges { exchanges, ttl };
    }
    if !addresses.is_empty() {
        return Answer::Addresses { addresses, ttl };
    }
    let soa = message.authorities.iter().find_map(negative_ttl);
    let negative = ttl.min(soa.unwrap_or(0));
    if message.metadata.response_code == ResponseCode::NXDomain {
        return Answer::NoDomain { ttl: negative };
    }
    // A server that looked behind the alias and found nothing says so with the SOA of the last zone (RFC 2308 §2.2).
    if owner != name && soa.is_none() {
        return Answer::Alias(owner.to_owned());
    }
    Answer::NoData { ttl: negative }
}

/// RFC 2308 §5: the lesser of the SOA's own time to live and its last field.
fn negative_ttl(record: &Record) -> Option<u32> {
    match &record.data {
        RData::SOA(soa) => Some(record.ttl.min(soa.minimum)),
        _ => None,
    }
}
