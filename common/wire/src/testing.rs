//! Strategies and helpers that the property tests share.

use proptest::prelude::*;

use crate::{Address, ForwardPath, ReversePath, Utf8};

/// Gives `feed` the octets cut in two at every place, then one by one; each time a fresh start.
pub(crate) fn every_split(octets: &[u8], mut feed: impl FnMut(&[&[u8]])) {
    for at in 0..=octets.len() {
        let (left, right) = octets.split_at(at);
        feed(&[left, right]);
    }
    feed(&octets.chunks(1).collect::<Vec<_>>());
}

/// Texts of valid addresses, ASCII only.
pub(crate) fn ascii_address() -> impl Strategy<Value = String> {
    let atom = "[a-zA-Z0-9!#$%&'*+/=?^_`{|}~.-]{1,80}";
    let quoted = r#""([ !#-\[\]-~]|\\[ -~]){0,20}""#;
    let label = "[a-zA-Z0-9_]([a-zA-Z0-9_-]{0,20}[a-zA-Z0-9_])?";
    let domain = prop::collection::vec(label, 1..5).prop_map(|labels| labels.join("."));
    let literal = prop_oneof![
        any::<[u8; 4]>().prop_map(|[a, b, c, d]| format!("[{a}.{b}.{c}.{d}]")),
        any::<std::net::Ipv6Addr>().prop_map(|address| format!("[IPv6:{address}]")),
    ];
    (prop_oneof![3 => atom, 1 => quoted], prop_oneof![4 => domain.boxed(), 1 => literal.boxed()])
        .prop_map(|(local, domain)| format!("{local}@{domain}"))
}

/// Texts of valid addresses, some of them UTF-8.
pub(crate) fn utf8_address() -> impl Strategy<Value = String> {
    let wide =
        ("[a-zäöüß漢字.]{1,20}", "[a-zäöüß漢字]{1,15}").prop_map(|(local, label)| format!("{local}@{label}.example"));
    prop_oneof![ascii_address(), wide]
}

pub(crate) fn reverse_path(text: impl Strategy<Value = String>) -> impl Strategy<Value = ReversePath> {
    let address = text.prop_map(|text| ReversePath::Address(parse(&text)));
    prop_oneof![1 => Just(ReversePath::Null), 4 => address]
}

pub(crate) fn forward_path(text: impl Strategy<Value = String>) -> impl Strategy<Value = ForwardPath> {
    let postmaster = "[Pp][Oo]stmaster".prop_map(|text| ForwardPath::Postmaster(text.into()));
    prop_oneof![1 => postmaster, 4 => text.prop_map(|text| ForwardPath::Address(parse(&text)))]
}

fn parse(text: &str) -> Address {
    Address::parse(text.as_bytes(), Utf8::Allowed).unwrap_or_else(|error| panic!("{text:?}: {error}"))
}
