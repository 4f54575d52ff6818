use proptest::prelude::*;

use super::*;
use crate::ReplyParser;

fn read(text: &str) -> Capabilities {
    let mut parser = ReplyParser::new();
    parser.push(text.as_bytes());
    match parser.next() {
        Ok(Some(reply)) => Capabilities::from_reply(&reply),
        other => panic!("{text:?}: {other:?}"),
    }
}

#[test]
fn the_offers_of_real_servers_are_read() {
    let postfix = read(
        "250-mx.example.net\r\n250-PIPELINING\r\n250-SIZE 10240000\r\n250-VRFY\r\n250-ETRN\r\n250-STARTTLS\r\n\
         250-AUTH PLAIN LOGIN\r\n250-AUTH=PLAIN LOGIN\r\n250-ENHANCEDSTATUSCODES\r\n250-8BITMIME\r\n250-DSN\r\n\
         250-SMTPUTF8\r\n250 CHUNKING\r\n",
    );
    assert_eq!((postfix.name.as_str(), postfix.size), ("mx.example.net", Some(Some(10_240_000))));
    assert!(postfix.pipelining && postfix.chunking && postfix.dsn && postfix.smtputf8 && postfix.starttls);
    assert!(postfix.vrfy && postfix.etrn && postfix.enhanced_status_codes && postfix.eight_bit_mime);
    assert_eq!((postfix.auth, postfix.other), (vec!["PLAIN".to_owned(), "LOGIN".to_owned()], vec![]));

    let exim = read("250-h Hello c [192.0.2.1]\r\n250-SIZE 52428800\r\n250-PIPECONNECT\r\n250 HELP\r\n");
    assert!(exim.pipeconnect && exim.help && !exim.pipelining);

    let sendmail = read("250-h Hello\r\n250-SIZE\r\n250-VERB\r\n250 DELIVERBY 60\r\n");
    assert_eq!((sendmail.size, sendmail.other), (Some(None), vec!["VERB".to_owned()]));
    assert_eq!((sendmail.deliver_by, sendmail.mt_priority), (Some(60), None));

    let sink = read("250-sink\r\n250-PIPELINING\r\n250-XVERP\r\n250 \r\n");
    assert!(sink.pipelining && sink.xverp && sink.other.is_empty());
}

#[test]
fn keywords_have_no_case_and_odd_values_are_no_values() {
    let found =
        read("250-h\r\n250-pipelining\r\n250-size 0\r\n250-auth=login\r\n250 limits rcptmax=10 MAILMAX=0 x=1 y\r\n");
    assert!(found.pipelining);
    assert_eq!((found.size, found.auth), (Some(None), vec!["LOGIN".to_owned()]));
    assert_eq!(found.limits, Limits { rcptmax: Some(10), ..Limits::default() });
    assert_eq!(read("250-h\r\n250 SIZE +5\r\n").size, Some(None));
    assert_eq!(read("250-h\r\n250 SIZE 99999999999999999999\r\n").size, Some(None));
}

#[test]
fn a_reply_to_helo_offers_nothing() {
    assert_eq!(read("250 h PIPELINING\r\n"), Capabilities { name: "h".to_owned(), ..Capabilities::default() });
    assert_eq!(read("250\r\n"), Capabilities::default());
}

#[test]
fn unknown_keywords_are_kept_within_bounds() {
    let lines = (0..KEPT_MAX + 10).map(|number| format!("X{number}"));
    let reply = Reply::multiline(250, std::iter::once("h".to_owned()).chain(lines).collect());
    assert_eq!(Capabilities::from_reply(&reply).other.len(), KEPT_MAX);
}

#[test]
fn only_ascii_blanks_make_an_empty_keyword() {
    assert_eq!(read("250-h\r\n250 \u{2003} \r\n").other, ["\u{2003}"]);
}

fn capabilities() -> impl Strategy<Value = Capabilities> {
    let number = || prop::option::of(1_u64..);
    let limits = (number(), number(), number()).prop_map(|(mailmax, rcptmax, rcptdomainmax)| Limits {
        mailmax,
        rcptmax,
        rcptdomainmax,
    });
    let auth = prop::collection::hash_set("[A-Z0-9-]{1,10}", 0..4).prop_map(|names| names.into_iter().collect());
    let other = prop::collection::vec("X[A-Z]{1,8}( [!-~]{1,10})?", 0..4);
    let urgency = (prop::option::of("[A-Z0-9]{0,8}"), prop::option::of(0_u64..));
    ("[a-z.]{1,20}", any::<[bool; 12]>(), prop::option::of(number()), limits, auth, other, urgency).prop_map(
        |(name, flags, size, limits, auth, other, (mt_priority, deliver_by))| {
            let [pipelining, chunking, eight_bit_mime, smtputf8, dsn, enhanced_status_codes, ..] = flags;
            let [.., starttls, xverp, help, vrfy, etrn, pipeconnect] = flags;
            let other = other.into_iter().filter(|line| !line.starts_with("XVERP")).collect();
            Capabilities {
                name,
                pipelining,
                chunking,
                size,
                eight_bit_mime,
                smtputf8,
                dsn,
                enhanced_status_codes,
                starttls,
                limits,
                xverp,
                auth,
                help,
                vrfy,
                etrn,
                mt_priority,
                deliver_by,
                pipeconnect,
                other,
            }
        },
    )
}

proptest! {
    #[test]
    fn what_is_written_is_read_back(capabilities in capabilities(), greeting in "[ -~]{0,20}") {
        let mut octets = Vec::new();
        Reply::multiline(250, capabilities.to_lines(&greeting)).encode(&mut octets);
        prop_assert_eq!(read(&String::from_utf8_lossy(&octets)), capabilities);
    }

    #[test]
    fn any_lines_are_read(lines in prop::collection::vec("(SIZE|AUTH|LIMITS|AUTH=)?[ =]?\\PC{0,20}", 0..8)) {
        let found = Capabilities::from_reply(&Reply { code: 250, status: None, lines });
        let lines = found.to_lines("");
        prop_assert_eq!(Capabilities::from_reply(&Reply { code: 250, status: None, lines }), found);
    }
}
