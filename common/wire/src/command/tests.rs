use proptest::prelude::*;

use super::*;
use crate::parameters::{BY_SECONDS_MAX, Body, ByMode, DeliverBy, Ret, Verp};
use crate::testing::{ascii_address, forward_path, reverse_path, utf8_address};

fn parse(line: &str) -> Result<Command, CommandError> {
    Command::parse(line.as_bytes(), Utf8::Refused)
}

fn mail(line: &str) -> (String, MailParameters) {
    match parse(line) {
        Ok(Command::Mail { from, parameters }) => (from.as_str().to_owned(), parameters),
        other => panic!("{line}: {other:?}"),
    }
}

fn rcpt(line: &str) -> (String, RcptParameters) {
    match parse(line) {
        Ok(Command::Rcpt { to, parameters }) => (to.as_str().to_owned(), parameters),
        other => panic!("{line}: {other:?}"),
    }
}

/// Code and enhanced code of the refusal.
fn refusal(line: &[u8]) -> String {
    match Command::parse(line, Utf8::Refused) {
        Ok(command) => panic!("{:?} is taken for {command:?}", String::from_utf8_lossy(line)),
        Err(error) => error.reply().to_string().chars().take(9).collect(),
    }
}

#[test]
fn verbs_have_no_case() {
    assert_eq!(parse("quit"), Ok(Command::Quit));
    assert_eq!(parse("StartTLS"), Ok(Command::Starttls));
    assert_eq!(parse("eHLO a.example"), Ok(Command::Ehlo("a.example".to_owned())));
    assert_eq!(mail("mail from:<A@b.example> size=7 body=8bitmime").1.size, Some(7));
    assert_eq!(rcpt("rcpt to:<A@b.example> notify=never").1.notify, Some(Notify::Never));
    assert_eq!(parse("bdat 5 last"), Ok(Command::Bdat { size: 5, last: Last::Yes }));
}

#[test]
fn blanks_are_tolerated_where_clients_put_them() {
    assert_eq!(parse("QUIT  \t"), Ok(Command::Quit));
    assert_eq!(parse("HELO  a.example "), Ok(Command::Helo("a.example".to_owned())));
    for line in ["MAIL FROM:<a@b.example>", "MAIL FROM: <a@b.example>", "MAIL  FROM:\t<a@b.example>  "] {
        assert_eq!(mail(line).0, "a@b.example");
    }
    let (from, parameters) = mail("MAIL FROM:<>   SIZE=1  BODY=7BIT ");
    assert_eq!((from.as_str(), parameters.size, parameters.body), ("", Some(1), Some(Body::SevenBit)));
}

#[test]
fn text_behind_noop_and_help_is_dropped() {
    assert_eq!(parse("NOOP are you there"), Ok(Command::Noop));
    assert_eq!(parse("HELP MAIL"), Ok(Command::Help));
}

#[test]
fn every_parameter_of_mail_is_read() {
    let (from, parameters) = mail(
        "MAIL FROM:<l@b.example> RET=HDRS ENVID=QQ+2B1 SIZE=00012 BODY=8BITMIME SMTPUTF8 AUTH=<> XVERP=-= \
              MT-PRIORITY=-3 BY=60;rt",
    );
    let expected = MailParameters {
        size: Some(12),
        body: Some(Body::EightBitMime),
        smtputf8: true,
        ret: Some(Ret::Headers),
        envid: Some("QQ+2B1".to_owned()),
        xverp: Some(Verp { separator: b'-', equals: b'=' }),
        mt_priority: Some(-3),
        by: Some(DeliverBy { seconds: 60, mode: ByMode::Return, trace: true }),
        auth: Some("<>".to_owned()),
    };
    assert_eq!((from.as_str(), parameters), ("l@b.example", expected));
    assert_eq!(mail("MAIL FROM:<a@b> XVERP").1.xverp, Some(Verp { separator: b'+', equals: b'=' }));
    assert_eq!(mail("MAIL FROM:<a@b> XVERP=+=").1.xverp, Some(Verp::default()));
    assert_eq!(mail("MAIL FROM:<a@b> SIZE=99999999999999999999").1.size, Some(u64::MAX));
}

#[test]
fn every_parameter_of_rcpt_is_read() {
    let (to, parameters) = rcpt("RCPT TO:<@x.example:u@b.example> ORCPT=rfc822;u+2Bx@b.example NOTIFY=delay,SUCCESS");
    assert_eq!(to, "u@b.example");
    assert_eq!(parameters.orcpt.as_deref(), Some("rfc822;u+2Bx@b.example"));
    assert_eq!(parameters.notify, Some(Notify::On { success: true, failure: false, delay: true }));
    assert_eq!(rcpt("RCPT TO:<PostMaster>").0, "PostMaster");
    assert!(rcpt("RCPT TO:<u@b.example> ORCPT=utf-8;\\x{FC}@b.example").1.orcpt.is_some());
}

#[test]
fn refusals_have_the_code_of_their_cause() {
    for (line, code) in [
        ("", "500 5.5.2"),
        ("FOO", "500 5.5.2"),
        (" QUIT", "500 5.5.2"),
        ("DATA1", "500 5.5.2"),
        ("MAIL:FROM:<a@b>", "500 5.5.2"),
        ("GET / HTTP/1.1", "500 5.5.2"),
        ("AUTH PLAIN AGEAYg==", "502 5.5.1"),
        ("TURN", "502 5.5.1"),
        ("ETRN", "501 5.5.4"),
        ("ETRN @", "501 5.5.4"),
        ("ETRN #", "501 5.5.4"),
        ("ETRN a..b", "501 5.5.4"),
        ("ETRN *.b", "501 5.5.4"),
        ("ETRN a b", "501 5.5.4"),
        ("MAIL", "501 5.5.4"),
        ("MAIL FROM", "501 5.5.4"),
        ("MAIL TO:<a@b>", "501 5.5.4"),
        ("MAIL FROM:a@b", "501 5.5.4"),
        ("MAIL FROM:<a@b", "501 5.5.4"),
        ("MAIL FROM:<a@b>SIZE=1", "501 5.5.4"),
        ("MAIL FROM:<a@b> =1", "501 5.5.4"),
        ("MAIL FROM:<a@b> -X", "501 5.5.4"),
        ("MAIL FROM:<a>", "501 5.1.7"),
        ("MAIL FROM:<a@b.>", "501 5.1.7"),
        ("MAIL FROM:<postmaster>", "501 5.1.7"),
        ("MAIL FROM:<\u{fc}@b>", "550 5.6.7"),
        ("MAIL FROM:<a@b> FOO", "555 5.5.4"),
        ("MAIL FROM:<a@b> NOTIFY=NEVER", "555 5.5.4"),
        ("MAIL FROM:<a@b> BODY=BINARYMIME", "501 5.5.4"),
        ("MAIL FROM:<a@b> SIZE", "501 5.5.4"),
        ("MAIL FROM:<a@b> SIZE=", "501 5.5.4"),
        ("MAIL FROM:<a@b> SIZE=-1", "501 5.5.4"),
        ("MAIL FROM:<a@b> SIZE=100000000000000000000", "501 5.5.4"),
        ("MAIL FROM:<a@b> SMTPUTF8=YES", "501 5.5.4"),
        ("MAIL FROM:<a@b> SMTPUTF8 SMTPUTF8", "501 5.5.4"),
        ("MAIL FROM:<a@b> SIZE=1 size=2", "501 5.5.4"),
        ("MAIL FROM:<a@b> RET=SOME", "501 5.5.4"),
        ("MAIL FROM:<a@b> ENVID=a+b", "501 5.5.4"),
        ("MAIL FROM:<a@b> ENVID=a+0D+0Ab", "501 5.5.4"),
        ("MAIL FROM:<a@b> XVERP=ab", "501 5.5.4"),
        ("MAIL FROM:<a@b> XVERP=+==", "501 5.5.4"),
        ("RCPT TO:<>", "501 5.1.3"),
        ("RCPT TO:<a b@c>", "501 5.1.3"),
        ("RCPT TO:<a@b> SIZE=1", "555 5.5.4"),
        ("RCPT TO:<\u{fc}@b>", "553 5.6.7"),
        ("RCPT TO:<a@b> NOTIFY=", "501 5.5.4"),
        ("RCPT TO:<a@b> NOTIFY=NEVER,DELAY", "501 5.5.4"),
        ("RCPT TO:<a@b> NOTIFY=NEVER NOTIFY=NEVER", "501 5.5.4"),
        ("RCPT TO:<a@b> ORCPT=a@b", "501 5.5.4"),
        ("RCPT TO:<a@b> ORCPT=;a@b", "501 5.5.4"),
        ("RCPT TO:<a@b> ORCPT=rfc822;", "501 5.5.4"),
        ("RCPT TO:<a@b> ORCPT=rfc822;a+0Ab", "501 5.5.4"),
        ("RCPT TO:<a@b> ORCPT=utf-8;\u{fc}@b", "501 5.5.4"),
        ("HELO", "501 5.5.4"),
        ("EHLO a b", "501 5.5.4"),
        ("VRFY", "501 5.5.4"),
        ("VRFY \u{fc}", "501 5.5.4"),
        ("DATA now", "501 5.5.4"),
        ("STARTTLS now", "501 5.5.4"),
        ("BDAT", "501 5.5.4"),
        ("BDAT x", "501 5.5.4"),
        ("BDAT -1", "501 5.5.4"),
        ("BDAT 5 LATE", "501 5.5.4"),
        ("BDAT 5LAST", "501 5.5.4"),
        ("BDAT 5 LAST LAST", "501 5.5.4"),
        ("BDAT 18446744073709551616", "501 5.5.4"),
        ("BDAT 99999999999999999999999", "501 5.5.4"),
    ] {
        assert_eq!(refusal(line.as_bytes()), code, "{line:?}");
    }
}

#[test]
fn bdat_takes_every_size_of_64_bits() {
    assert_eq!(parse("BDAT 0"), Ok(Command::Bdat { size: 0, last: Last::No }));
    assert_eq!(parse("BDAT 0 LAST"), Ok(Command::Bdat { size: 0, last: Last::Yes }));
    assert_eq!(parse("BDAT 18446744073709551615"), Ok(Command::Bdat { size: u64::MAX, last: Last::No }));
}

#[test]
fn controls_have_no_place_in_a_line() {
    for line in ["QUIT\0", "QUIT\r", "NOOP \x07", "MAIL FROM:<a\0@b>", "MAIL FROM:<a@b>\rX", "EHLO a\x7f", "EHLO a\nb"]
    {
        let code = if line.starts_with("QUIT") { "500 5.5.2" } else { "501 5.5.4" };
        assert_eq!(refusal(line.as_bytes()), code, "{line:?}");
    }
}

#[test]
fn octets_that_are_not_utf8_are_refused_in_addresses_and_masked_in_names() {
    assert_eq!(refusal(b"MAIL FROM:<\xff@b.example> SMTPUTF8"), "501 5.1.7");
    assert_eq!(Command::parse(b"RCPT TO:<\xff@b>", Utf8::Allowed).map_err(|e| e.reply().code), Err(501));
    assert_eq!(Command::parse(b"EHLO b\xfcro", Utf8::Refused), Ok(Command::Ehlo("b?ro".to_owned())));
}

#[test]
fn smtputf8_at_mail_decides_on_the_sender_and_the_transaction_on_recipients() {
    let line = "MAIL FROM:<ü@b.example> SMTPUTF8".as_bytes();
    assert!(Command::parse(line, Utf8::Refused).is_ok());
    assert!(Command::parse("MAIL FROM:<ü@b.example>".as_bytes(), Utf8::Allowed).is_err());
    let line = "RCPT TO:<ü@b.example> ORCPT=utf-8;ü@b.example".as_bytes();
    assert!(Command::parse(line, Utf8::Allowed).is_ok());
    assert!(Command::parse(line, Utf8::Refused).is_err());
}

#[test]
fn values_are_bounded() {
    let envid = |length| parse(&format!("MAIL FROM:<> ENVID={}", "a".repeat(length)));
    assert!(envid(crate::ENVID_MAX).is_ok());
    assert_eq!(envid(crate::ENVID_MAX + 1), Err(CommandError::BadParameter("ENVID")));
    let orcpt = |length: usize| parse(&format!("RCPT TO:<a@b> ORCPT=rfc822;{}", "a".repeat(length - 7)));
    assert!(orcpt(crate::ORCPT_MAX).is_ok());
    assert_eq!(orcpt(crate::ORCPT_MAX + 1), Err(CommandError::BadParameter("ORCPT")));
    let Err(CommandError::UnknownParameter(shown)) = parse(&format!("MAIL FROM:<> {}", "A".repeat(2000))) else {
        panic!("a parameter of 2000 letters is known")
    };
    assert_eq!(shown.len(), 40);
}

#[test]
fn what_is_written_cannot_end_its_line() {
    let mut out = Vec::new();
    Command::Ehlo("a\r\nQUIT".to_owned()).encode(&mut out);
    encode_rcpt(&mut out, "a\r\n@b", None, Some("x;\r\n y"));
    let parameters = MailParameters { envid: Some("a\nb c".to_owned()), ..MailParameters::default() };
    encode_mail(&mut out, "", &parameters);
    let expected = "EHLO a??QUIT\r\nRCPT TO:<a??@b> ORCPT=x;???y\r\nMAIL FROM:<> ENVID=a?b?c\r\n";
    assert_eq!(String::from_utf8_lossy(&out), expected);
}

fn notify() -> impl Strategy<Value = Notify> {
    let on = any::<(bool, bool, bool)>()
        .prop_filter("none of them is NEVER", |words| *words != (false, false, false))
        .prop_map(|(success, failure, delay)| Notify::On { success, failure, delay });
    prop_oneof![Just(Notify::Never), on]
}

fn xtext() -> impl Strategy<Value = String> {
    "[ -~]{1,30}".prop_map(|text| crate::xtext_encode(text.as_bytes()))
}

fn mail_parameters(smtputf8: bool) -> impl Strategy<Value = MailParameters> {
    let delimiter = || prop::sample::select(b"-=+".as_slice());
    let verp = (delimiter(), delimiter()).prop_map(|(separator, equals)| Verp { separator, equals });
    let body = prop::sample::select(vec![Body::SevenBit, Body::EightBitMime]);
    let ret = prop::sample::select(vec![Ret::Full, Ret::Headers]);
    let option = prop::option::of::<BoxedStrategy<String>>;
    (
        any::<Option<u64>>(),
        prop::option::of(body),
        prop::option::of(ret),
        option(xtext().boxed()),
        prop::option::of(verp),
        option("[!-~]{1,40}".boxed()),
        prop::option::of(-9i8..=9),
        prop::option::of((1i32..=BY_SECONDS_MAX, any::<(bool, bool)>())),
    )
        .prop_map(move |(size, body, ret, envid, xverp, auth, mt_priority, by)| MailParameters {
            size,
            body,
            smtputf8,
            ret,
            envid,
            xverp,
            mt_priority,
            by: by.map(|(seconds, (returns, trace))| DeliverBy {
                seconds,
                mode: if returns { ByMode::Return } else { ByMode::Notify },
                trace,
            }),
            auth,
        })
}

fn rcpt_parameters() -> impl Strategy<Value = RcptParameters> {
    let orcpt = prop_oneof![
        xtext().prop_map(|text| format!("rfc822;{text}")),
        "[a-zü漢!-~]{1,30}".prop_map(|text| format!("utf-8;{text}")),
    ];
    (prop::option::of(notify()), prop::option::of(orcpt)).prop_map(|(notify, orcpt)| RcptParameters { notify, orcpt })
}

fn node() -> impl Strategy<Value = Node> {
    let domain = || "[a-z0-9_][a-z0-9_-]{0,62}([.][a-z0-9_][a-z0-9_-]{0,30}){0,4}";
    prop_oneof![
        domain().prop_map(Node::Domain),
        domain().prop_map(Node::Subdomains),
        "[!-~]{1,80}".prop_map(Node::Queue),
    ]
}

fn command() -> impl Strategy<Value = Command> {
    let name = "[!-~]{1,80}";
    let text = "[!-~ü]([ -~ü]{0,60}[!-~ü])?";
    let mail = |from: BoxedStrategy<ReversePath>, smtputf8| {
        (from, mail_parameters(smtputf8)).prop_map(|(from, parameters)| Command::Mail { from, parameters })
    };
    prop_oneof![
        name.prop_map(Command::Helo),
        name.prop_map(Command::Ehlo),
        name.prop_map(Command::Lhlo),
        mail(reverse_path(ascii_address()).boxed(), false),
        mail(reverse_path(utf8_address()).boxed(), true),
        (forward_path(utf8_address()), rcpt_parameters()).prop_map(|(to, parameters)| Command::Rcpt { to, parameters }),
        any::<(u64, bool)>()
            .prop_map(|(size, last)| Command::Bdat { size, last: if last { Last::Yes } else { Last::No } }),
        text.prop_map(Command::Vrfy),
        text.prop_map(Command::Expn),
        node().prop_map(Command::Etrn),
        prop::sample::select(vec![
            Command::Data,
            Command::Rset,
            Command::Noop,
            Command::Help,
            Command::Starttls,
            Command::Quit
        ]),
    ]
}

proptest! {
    #[test]
    fn a_command_written_and_parsed_is_itself(command in command()) {
        let mut line = Vec::new();
        command.encode(&mut line);
        prop_assert!(line.len() <= crate::LINE_MAX);
        let line = line.strip_suffix(b"\r\n").ok_or_else(|| TestCaseError::fail("no CRLF"))?;
        prop_assert_eq!(Command::parse(line, Utf8::Allowed), Ok(command));
    }

    #[test]
    fn what_is_parsed_can_be_written_and_stays(octets in prop::collection::vec(any::<u8>(), 0..60), start in 0_usize..10) {
        let starts = ["", "MAIL FROM:<", "RCPT TO:<a@b> ", "BDAT ", "EHLO ", "VRFY ", "MAIL FROM:<> ", "RCPT TO:<a", "ETRN ", "ETRN @"];
        let mut line = starts[start].as_bytes().to_vec();
        line.extend(octets);
        if let Ok(command) = Command::parse(&line, Utf8::Allowed) {
            let mut again = Vec::new();
            command.encode(&mut again);
            let line = again.strip_suffix(b"\r\n").unwrap_or_default();
            prop_assert!(!line.iter().any(|octet| octet.is_ascii_control()));
            prop_assert_eq!(Command::parse(line, Utf8::Allowed), Ok(command));
        }
    }
}
