//! What clients say and how the hub answers: DATA, BDAT, every ESMTP option, LMTP; smtplib, swaks and raw dialogues.

use std::collections::HashMap;

use zrelay_tests::peers::{python, swaks};
use zrelay_tests::{Body, Client, Hub, Mail, SOON, Sink, Transaction, skip};

const ZRELAY: &str = env!("CARGO_BIN_EXE_zrelay");

fn setup() -> (Sink, Hub) {
    let sink = Sink::start();
    let hub = Hub::towards(ZRELAY, &sink.host()).lmtp().start();
    (sink, hub)
}

fn only(sink: &Sink) -> Transaction {
    assert!(sink.wait(1, SOON), "nothing arrives: {:?}", sink.violations());
    assert!(sink.violations().is_empty(), "{:?}", sink.violations());
    sink.transactions().remove(0)
}

fn parameters(pairs: &[(&str, &str)]) -> HashMap<String, String> {
    pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
}

#[test]
fn ehlo_offers_what_the_hub_can() {
    let (_sink, hub) = setup();
    let reply = Client::connect(hub.smtp()).command("EHLO client.test");
    assert_eq!(reply.code, 250);
    assert!(reply.lines[0].starts_with("hub.test"), "{reply:?}");
    for keyword in [
        "PIPELINING",
        "CHUNKING",
        "SIZE 104857600",
        "8BITMIME",
        "SMTPUTF8",
        "DSN",
        "ENHANCEDSTATUSCODES",
        "LIMITS RCPTMAX=50000",
        "MT-PRIORITY MIXER",
        "DELIVERBY 60",
    ] {
        assert!(reply.lines.iter().any(|line| line == keyword), "{keyword} in {reply:?}");
    }
    assert!(!reply.lines.iter().any(|line| line == "STARTTLS"), "there is no certificate");
    assert_eq!(Client::connect(hub.smtp()).command("HELO client.test").lines.len(), 1);
}

#[test]
fn commands_have_their_codes_in_one_line() {
    let (_sink, hub) = setup();
    let mut client = hub.client();
    for (command, code) in [
        ("NOOP", 250),
        ("VRFY someone", 252),
        ("RSET", 250),
        ("EXPN list", 502),
        ("RCPT TO:<a@b.test>", 503),
        ("DATA", 503),
        ("mail from:<a@b.test> size=100", 250),
        ("MAIL FROM:<a@b.test>", 503),
        ("DATA", 554),
        ("RSET", 250),
        ("MAIL FROM:<a@b.test>", 250),
        ("rcpt to:<c@d.test>", 250),
        ("RCPT TO:<Postmaster>", 250),
        ("RCPT TO:<@relay.test:e@f.test>", 250),
        ("RCPT TO:<no-domain>", 501),
        ("RCPT TO:<a@b.test> FOO=bar", 555),
        ("RSET", 250),
        ("MAIL FROM:<>", 250),
        ("RSET", 250),
        ("MAIL FROM:<a@b.test> SIZE=99999999999", 552),
        ("MAIL FROM:<a b@c.test>", 501),
        ("MAIL FROM:<ä@b.test>", 553),
        ("STARTTLS", 502),
        ("FROBNICATE", 500),
        ("", 500),
        ("EHLO", 501),
    ] {
        let reply = client.command(command);
        let same = reply.code == code
            || (code == 553 && [501, 550, 553].contains(&reply.code))
            || (code == 502 && reply.code == 454);
        assert!(same, "{command}: {reply:?} instead of {code}");
        assert_eq!(reply.lines.len(), 1, "{command}: {reply:?}");
    }
    assert_eq!(client.command("HELP").code, 214);
    assert_eq!(client.command("QUIT").code, 221);
    assert!(client.is_closed());
}

#[test]
fn a_foreign_network_may_not_relay() {
    let sink = Sink::start();
    let hub = Hub::towards(ZRELAY, &sink.host()).listen("relay_from = [\"192.0.2.0/24\"]").start();
    let mut client = hub.client();
    assert_eq!(client.command("MAIL FROM:<a@b.test>").code, 250);
    let reply = client.command("RCPT TO:<c@d.test>");
    assert_eq!((reply.code, reply.lines[0].starts_with("5.7.1")), (550, true), "{reply:?}");
}

#[test]
fn smtplib_sends_with_data_and_its_options() {
    let (sink, hub) = setup();
    let mail = Mail::generate("smtplib", 9000, Body::Text, "s@a.test", &["r@b.test", "t@c.test"]);
    let script = "
s = smtplib.SMTP('127.0.0.1', int(sys.argv[1]))
refused = s.sendmail('s@a.test', ['r@b.test', 't@c.test'], sys.argv[2],
                     mail_options=['BODY=8BITMIME', 'RET=HDRS', 'ENVID=QQ+2B1'],
                     rcpt_options=['NOTIFY=SUCCESS,FAILURE', 'ORCPT=rfc822;r@b.test'])
assert refused == {}, refused
s.quit()";
    python(script, &[&hub.smtp().port().to_string(), std::str::from_utf8(&mail.content).expect("ASCII")]);
    assert!(sink.wait(2, SOON));
    let transaction = only(&sink);
    assert_eq!(transaction.marked(), Some(mail.marked()));
    assert_eq!(transaction.mail_parameters["RET"], "HDRS");
    assert_eq!(transaction.mail_parameters["ENVID"], "QQ+2B1");
    for recipient in &transaction.recipient_parameters {
        let wanted = parameters(&[("NOTIFY", "SUCCESS,FAILURE"), ("ORCPT", "rfc822;r@b.test")]);
        assert_eq!(recipient, &wanted);
    }
}

#[test]
fn smtplib_sends_eight_bit_and_internationalised_mail() {
    let (sink, hub) = setup();
    let script = "
from email.message import EmailMessage
from email.headerregistry import Address
import email.policy
m = EmailMessage(policy=email.policy.SMTPUTF8)
m['From'] = Address(username='jörg', domain='dömäne.test')
m['To'] = Address(username='δοκιμή', domain='παράδειγμα.test')
m['Subject'] = 'Grüße'
m.set_content('Bücher\\n')
s = smtplib.SMTP('127.0.0.1', int(sys.argv[1]))
s.send_message(m)
s.quit()";
    python(script, &[&hub.smtp().port().to_string()]);
    let transaction = only(&sink);
    assert_eq!(transaction.sender, "jörg@dömäne.test");
    assert_eq!(transaction.recipients, ["δοκιμή@παράδειγμα.test"]);
    assert!(transaction.mail_parameters.contains_key("SMTPUTF8"), "{:?}", transaction.mail_parameters);
    assert!(transaction.text().contains("Subject: Grüße"), "{}", transaction.text());
}

#[test]
fn swaks_sends_plainly_and_pipelined() {
    let (sink, hub) = setup();
    for (count, options) in [&[][..], &["--pipeline"], &["--protocol", "SMTP"]].into_iter().enumerate() {
        let arguments =
            [&["--from", "s@a.test", "--to", "r@b.test,t@c.test", "--body", "dots:\\n.\\n..\\nend"], options].concat();
        let Some((transcript, content)) = swaks(hub.smtp(), &arguments) else { return skip("swaks is not installed") };
        assert!(content, "{transcript}");
        assert!(sink.wait(2 * (count + 1), SOON), "{options:?}");
    }
    assert!(sink.transactions().iter().all(|it| it.text().contains("dots:\r\n.\r\n..\r\nend")));
    assert!(sink.violations().is_empty(), "{:?}", sink.violations());
}

#[test]
fn swaks_speaks_lmtp() {
    let (sink, hub) = setup();
    let arguments = ["--protocol", "LMTP", "--from", "s@a.test", "--to", "r@b.test,t@c.test", "--body", "by LMTP"];
    let Some((transcript, content)) = swaks(hub.lmtp(), &arguments) else { return skip("swaks is not installed") };
    assert!(content, "{transcript}");
    assert!(sink.wait(2, SOON));
    assert!(only(&sink).text().contains("with LMTP"), "{}", only(&sink).text());
}

#[test]
fn lmtp_answers_once_for_each_recipient() {
    let (sink, hub) = setup();
    let mut client = Client::connect(hub.lmtp());
    assert_eq!(client.command("EHLO client.test").code / 100, 5);
    assert_eq!(client.command("LHLO client.test").code, 250);
    for command in ["MAIL FROM:<s@a.test>", "RCPT TO:<one@b.test>", "RCPT TO:<two@b.test>", "RCPT TO:<three@c.test>"] {
        assert_eq!(client.command(command).code, 250, "{command}");
    }
    assert_eq!(client.command("DATA").code, 354);
    client.send(b"Subject: x\r\n\r\nbody\r\n.\r\nNOOP\r\n");
    let replies: Vec<_> = (0..4).map(|_| client.reply()).collect();
    assert!(replies.iter().all(|reply| reply.code == 250), "{replies:?}");
    assert!(sink.wait(3, SOON));
    assert_eq!(client.command("QUIT").code, 221);
}

#[test]
fn bdat_takes_octets_as_they_are() {
    let (sink, hub) = setup();
    let mail = Mail::generate("bdat", 70_000, Body::EightBit, "s@a.test", &["r@b.test"]);
    let (first, rest) = mail.content.split_at(30_001);
    let mut client = hub.client();
    assert_eq!(client.command("MAIL FROM:<s@a.test> BODY=8BITMIME").code, 250);
    assert_eq!(client.command("RCPT TO:<r@b.test>").code, 250);
    client.send(format!("BDAT {}\r\n", first.len()).as_bytes());
    client.send(first);
    assert_eq!(client.reply().code, 250);
    assert_eq!(client.command("BDAT 0").code, 250);
    client.send(format!("BDAT {} LAST\r\n", rest.len()).as_bytes());
    client.send(rest);
    assert_eq!(client.reply().code, 250);
    assert_eq!(only(&sink).marked(), Some(mail.marked()));
}

#[test]
fn transactions_stream_back_to_back() {
    let (sink, hub) = setup();
    let mails: Vec<Mail> = (0..50)
        .map(|number| Mail::generate(&format!("stream.{number}"), 2000, Body::Text, "s@a.test", &["r@b.test"]))
        .collect();
    let mut client = hub.client();
    let mut flight = Vec::new();
    for mail in &mails {
        flight.extend_from_slice(b"MAIL FROM:<s@a.test>\r\nRCPT TO:<r@b.test>\r\n");
        flight.extend_from_slice(format!("BDAT {} LAST\r\n", mail.content.len()).as_bytes());
        flight.extend_from_slice(&mail.content);
    }
    client.send(&flight);
    for number in 0..150 {
        let reply = client.reply();
        assert_eq!(reply.code, 250, "reply {number}: {reply:?}");
    }
    assert!(sink.wait(50, SOON));
    let deliveries = sink.deliveries();
    assert!(mails.iter().all(|mail| deliveries.iter().any(|it| it.0 == mail.marked())));
}

#[test]
fn only_crlf_dot_crlf_ends_data() {
    let (sink, hub) = setup();
    for smuggled in ["\n.\r\n", "\n.\n", "\r.\r", "\r\n.\n", "\r.\r\n", "\n.\r\r\n"] {
        let mut client = hub.client();
        assert_eq!(client.command("MAIL FROM:<s@a.test>").code, 250);
        assert_eq!(client.command("RCPT TO:<r@b.test>").code, 250);
        assert_eq!(client.command("DATA").code, 354);
        client.send(format!("Subject: x\r\n\r\nbody{smuggled}MAIL FROM:<evil@a.test>\r\n.\r\n").as_bytes());
        let reply = client.reply();
        assert_eq!((reply.code, reply.lines[0].starts_with("5.6.11")), (550, true), "{smuggled:?}: {reply:?}");
        assert_eq!(client.command("NOOP").code, 250, "{smuggled:?}: the session goes on");
    }
    assert_eq!(hub.queued(), 0);
    assert_eq!(sink.count(), 0);
}

#[test]
fn a_bare_newline_is_made_whole_where_so_configured() {
    let sink = Sink::start();
    let hub = Hub::towards(ZRELAY, &sink.host()).table("[intake]\nbare_newline = \"normalise\"").start();
    let mut client = hub.client();
    assert_eq!(client.command("MAIL FROM:<s@a.test>").code, 250);
    assert_eq!(client.command("RCPT TO:<r@b.test>").code, 250);
    assert_eq!(client.command("DATA").code, 354);
    client.send(b"Subject: x\n\nbody\n.\nmore\rend\r\n.\r\n");
    let reply = client.reply();
    assert_eq!(reply.code, 250, "{reply:?}");
    let text = only(&sink).text();
    let (head, rest) = text.split_once("Subject: x").expect("the subject is there");
    assert!(head.starts_with("Received:") && rest.starts_with("\r\n\r\nbody\r\n"), "{text:?}");
    assert!(rest.ends_with("more\r\nend\r\n"), "LF dot LF does not end it: {text:?}");
}

#[test]
fn many_recipients_fit_one_transaction() {
    let (sink, hub) = setup();
    let mut client = hub.client();
    let mut flight = b"MAIL FROM:<s@a.test>\r\n".to_vec();
    for number in 0..5000 {
        flight.extend_from_slice(format!("RCPT TO:<r{number}@b.test>\r\n").as_bytes());
    }
    flight.extend_from_slice(b"DATA\r\n");
    client.send(&flight);
    for number in 0..5001 {
        assert_eq!(client.reply().code, 250, "reply {number}");
    }
    assert_eq!(client.reply().code, 354);
    client.send(b"Subject: x\r\n\r\nbody\r\n.\r\n");
    assert_eq!(client.reply().code, 250);
    assert!(sink.wait(5000, SOON), "{}", sink.count());
}
