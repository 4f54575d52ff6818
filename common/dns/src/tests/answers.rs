//! What the answers mean.

use super::*;

const ZONE: &str = "
    example.net.        MX 20 B.example.net.
    example.net.        MX 10 c.example.net.
    example.net.        MX 10 a.example.net.
    a.example.net.      A 192.0.2.11
    a.example.net.      A 192.0.2.12
    a.example.net.      AAAA 2001:db8::11
    b.example.net.      A 192.0.2.21
    c.example.net.      A 192.0.2.31
    plain.example.      A 192.0.2.41
    null.example.       MX 0 .
    dead.example.       MX 10 gone.dead.example.
    dead.example.       MX 20 empty.dead.example.
    x.empty.dead.example. A 192.0.2.51
    half.example.       MX 10 gone.dead.example.
    half.example.       MX 20 broken.example.
    broken.example.     SERVFAIL
    mixed.example.      MX 10 gone.dead.example.
    mixed.example.      MX 20 b.example.net.
    www.example.        CNAME alias.example.
    alias.example.      CNAME example.net.
    lazy.example.       CNAME lazier.example.
    lazy.example.       UNCHASED
    lazier.example.     CNAME plain.example.
    lazier.example.     UNCHASED
    loop.example.       CNAME pool.example.
    loop.example.       UNCHASED
    pool.example.       CNAME loop.example.
    pool.example.       UNCHASED
    dangling.example.   CNAME nowhere.example.
    four.example.       A 192.0.2.61
    four.example.       SERVFAIL AAAA
    six.example.        AAAA 2001:db8::61
    odd.example.        MX 10 a\\054b.example.
    odd.example.        MX 10 b.example.net.
    odder.example.      MX 10 a\\040b.example.
    twice.example.      MX 10 b.example.net.
    twice.example.      MX 20 B.EXAMPLE.NET.
    xn--bcher-kva.example. A 192.0.2.71
";

#[test]
fn exchanges_come_by_preference_and_name_with_their_addresses_in_turn() {
    let answer = World::new(ZONE).answer(mx("Example.NET."));
    assert_eq!(
        shown(&answer),
        "a.example.net,c.example.net,b.example.net: 10 a.example.net 2001:db8::11 192.0.2.11 192.0.2.12, \
         10 c.example.net 192.0.2.31, 20 b.example.net 192.0.2.21"
    );
}

#[test]
fn a_domain_without_mx_is_its_own_exchange() {
    assert_eq!(shown(&World::new(ZONE).answer(mx("plain.example"))), "plain.example: 0 plain.example 192.0.2.41");
}

#[test]
fn hosts_are_not_looked_up_by_mx() {
    assert_eq!(World::new(ZONE).answer(hosts("example.net")), Err(DnsError::NoAddress));
    assert_eq!(shown(&World::new(ZONE).answer(hosts("six.example"))), "six.example: 0 six.example 2001:db8::61");
}

#[test]
fn what_is_final_is_told_from_what_may_pass() {
    let mut world = World::new(ZONE);
    assert_eq!(world.answer(mx("null.example")), Err(DnsError::NullMx));
    assert_eq!(world.answer(mx("nowhere.example")), Err(DnsError::NoSuchDomain));
    assert_eq!(world.answer(hosts("nowhere.example")), Err(DnsError::NoSuchDomain));
    assert_eq!(world.answer(mx("dangling.example")), Err(DnsError::NoSuchDomain));
    assert_eq!(world.answer(mx("dead.example")), Err(DnsError::NoAddress));
    assert_eq!(world.answer(mx("empty.dead.example")), Err(DnsError::NoAddress));
    for name in ["broken.example", "half.example", "loop.example"] {
        assert!(world.answer(mx(name)).is_err_and(|error| error.is_temporary()), "{name}");
    }
    let text = world.answer(mx("broken.example")).unwrap_err().to_string();
    assert_eq!(text, "Name service error: Server Failure from 192.0.2.1:53 for broken.example MX");
}

#[test]
fn an_exchange_without_addresses_is_left_out_beside_one_that_has_them() {
    assert_eq!(shown(&World::new(ZONE).answer(mx("mixed.example"))), "b.example.net: 20 b.example.net 192.0.2.21");
}

#[test]
fn one_family_is_enough_when_the_other_fails() {
    assert_eq!(shown(&World::new(ZONE).answer(mx("four.example"))), "four.example: 0 four.example 192.0.2.61");
}

#[test]
fn aliases_are_followed_through_the_answer_and_beyond_it() {
    let mut world = World::new(ZONE);
    assert!(shown(&world.answer(mx("www.example"))).starts_with("a.example.net,c.example.net,b.example.net:"));
    assert_eq!(shown(&world.answer(hosts("lazy.example"))), "lazy.example: 0 lazy.example 192.0.2.41");
}

#[test]
fn exchanges_that_are_no_hosts_are_passed_over() {
    let mut world = World::new(ZONE);
    assert_eq!(shown(&world.answer(mx("odd.example"))), "b.example.net: 10 b.example.net 192.0.2.21");
    assert_eq!(world.answer(mx("odder.example")), Err(DnsError::NoAddress));
}

#[test]
fn an_exchange_named_twice_counts_once_at_its_best_preference() {
    assert_eq!(shown(&World::new(ZONE).answer(mx("twice.example"))), "b.example.net: 10 b.example.net 192.0.2.21");
}

#[test]
fn names_with_u_labels_are_asked_as_a_labels() {
    let answer = World::new(ZONE).answer(mx("Bücher.example"));
    assert_eq!(shown(&answer), "xn--bcher-kva.example: 0 xn--bcher-kva.example 192.0.2.71");
}

#[test]
fn what_is_no_name_is_answered_without_a_query() {
    let mut world = World::new(ZONE);
    assert_eq!(world.answer(mx("not a name")), Err(DnsError::BadName));
    assert_eq!(world.answer(hosts("")), Err(DnsError::BadName));
    assert_eq!(world.sent, 0);
}

#[test]
fn the_exchanges_of_a_domain_are_bounded() {
    let mut zone = String::new();
    for number in 0..200 {
        zone.push_str(&format!(
            "many.example. MX {number} m{number}.many.example.\nm{number}.many.example. A 192.0.2.1\n"
        ));
    }
    let target = World::new(&zone).answer(mx("many.example")).unwrap();
    assert_eq!(target.exchanges.len(), 32);
    assert_eq!(target.exchanges[31].name, "m31.many.example");
}

#[test]
fn own_name_among_the_exchanges_leaves_only_better_ones() {
    let target = World::new(ZONE).answer(mx("example.net")).unwrap();
    assert_eq!(target.clone().beyond("hub.example.org"), Ok(target.clone()));
    assert_eq!(target.clone().beyond("B.Example.net.").unwrap().site, "a.example.net,c.example.net");
    assert_eq!(target.beyond("a.example.net"), Err(DnsError::OwnName));
}

#[test]
fn every_error_has_a_status_of_its_class() {
    let temporary = DnsError::Temporary(String::new());
    for error in [DnsError::NoSuchDomain, DnsError::BadName, DnsError::NullMx, DnsError::NoAddress, DnsError::OwnName] {
        assert_eq!((error.status().0, error.is_temporary()), (5, false));
    }
    assert_eq!((temporary.status(), temporary.is_temporary()), ((4, 4, 3), true));
}
