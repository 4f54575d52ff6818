//! Each peer works without a hub between: what the end-to-end tests find is then the hub's.

use std::sync::atomic::AtomicBool;
use std::time::Duration;

use zrelay_tests::peers::{self, Exim, Mlmmj, Peers, Postfix, SmtpSink, Verp, python, run, smtp_source, swaks};
use zrelay_tests::{Answered, Body, Client, Mail, Marked, SOON, Sink, inject, skip, wait_until};

const LIMIT: Duration = Duration::from_secs(60);

fn mail(number: usize) -> Mail {
    Mail::generate(&format!("peer.{number}"), 3000, Body::Text, "s@a.test", &["r@b.test"])
}

#[test]
fn smtp_source_reaches_smtp_sink() {
    let Some(peers) = Peers::find() else { return skip(peers::MISSING) };
    let sink = SmtpSink::start(&peers, &[]);
    let options = ["-m", "10", "-s", "2", "-r", "3", "-N", "-d", "-l", "1000", "-f", "s@a.test", "-t", "r@b.test"];
    run(&mut smtp_source(&peers, &options, sink.address(), LIMIT));
    assert!(wait_until(SOON, || sink.transactions().len() == 10));
    let transactions = sink.transactions();
    assert!(transactions.iter().all(|it| it.sender == "s@a.test" && it.recipients.len() == 3));
    assert!(transactions[0].split().0.contains_key("message-id"), "{:?}", transactions[0]);
}

#[test]
fn smtp_source_sends_a_file_to_many_recipients() {
    let Some(peers) = Peers::find() else { return skip(peers::MISSING) };
    let sink = SmtpSink::start(&peers, &[]);
    let directory = tempfile::tempdir().expect("a directory can be made");
    let file = directory.path().join("mail");
    let mut mail = Mail::generate("file", 200_000, Body::Text, "s@a.test", &[]);
    let text = String::from_utf8(mail.content.clone()).expect("ASCII").replace("\r\n", "\n");
    std::fs::write(&file, text).expect("our own directory");
    // smtp-source adds an empty line.
    mail.content.extend_from_slice(b"\r\n");
    let options =
        ["-m", "3", "-r", "1000", "-N", "-d", "-f", "s@a.test", "-t", "r@b.test", "-F", file.to_str().expect("text")];
    run(&mut smtp_source(&peers, &options, sink.address(), LIMIT));
    let found = || sink.transactions().iter().filter_map(|it| Marked::find_in_file(&it.content)).collect::<Vec<_>>();
    assert!(wait_until(SOON, || found() == vec![mail.marked(); 3]), "{:?} {:?}", found(), mail.marked());
    let recipients: std::collections::HashSet<_> =
        sink.transactions().into_iter().flat_map(|it| it.recipients).collect();
    assert_eq!(recipients.len(), 3000);
}

#[test]
fn smtp_sink_keeps_what_an_injector_sends() {
    let Some(peers) = Peers::find() else { return skip(peers::MISSING) };
    let sink = SmtpSink::start(&peers, &["-8"]);
    let answers = inject(sink.address(), 10, 2, &AtomicBool::new(false), mail);
    assert_eq!(answers, [Answered::Accepted; 10]);
    let found =
        || -> Vec<Marked> { sink.transactions().iter().filter_map(|it| Marked::find_in_file(&it.content)).collect() };
    let all = wait_until(SOON, || (0..10).all(|number| found().contains(&mail(number).marked())));
    assert!(all, "{:?} {:?}", found(), mail(0).marked());
}

#[test]
fn the_sink_keeps_what_an_injector_sends() {
    let sink = Sink::start();
    let answers = inject(sink.address(), 100, 3, &AtomicBool::new(false), mail);
    assert_eq!(answers, [Answered::Accepted; 100]);
    let deliveries = sink.deliveries();
    assert!((0..100).all(|number| deliveries.contains(&(mail(number).marked(), "r@b.test".to_owned()))));
    assert_eq!((deliveries.len(), sink.connections()), (100, 3));
    assert!(sink.violations().is_empty(), "{:?}", sink.violations());
}

#[test]
fn the_sink_notices_what_a_client_must_not_do() {
    let sink = Sink::build().offers(&[]).start();
    let mut client = Client::ehlo(sink.address());
    client.send(b"MAIL FROM:<a@b.test> SIZE=10\r\nRCPT TO:<c@d.test>\r\n");
    assert_eq!((client.reply().code, client.reply().code), (250, 250));
    let violations = sink.violations();
    assert!(violations.iter().any(|text| text.contains("pipelined")), "{violations:?}");
    assert!(violations.iter().any(|text| text.contains("SIZE")), "{violations:?}");
}

#[test]
fn smtplib_reaches_postfix() {
    let Some(peers) = Peers::find_as_root() else { return skip(peers::MISSING) };
    let postfix = Postfix::start(&peers, "");
    let content = String::from_utf8(mail(1).content).expect("ASCII");
    let script = "s = smtplib.SMTP('127.0.0.1', int(sys.argv[1]))\ns.sendmail('s@a.test', ['r@b.test', 't@c.test'], sys.argv[2])\ns.quit()";
    python(script, &[&postfix.address().port().to_string(), &content]);
    assert!(wait_until(SOON, || postfix.delivered().len() == 2), "{}", postfix.log());
    let mut delivered = postfix.delivered();
    delivered.sort_by(|a, b| a.recipient.cmp(&b.recipient));
    assert_eq!((delivered[0].sender.as_str(), delivered[0].recipient.as_str()), ("s@a.test", "r@b.test"));
    assert_eq!(delivered[1].marked, Some(mail(1).marked()));
}

#[test]
fn swaks_reaches_exim() {
    let Some(peers) = Peers::find_as_root() else { return skip(peers::MISSING) };
    let exim = Exim::start(&peers, "");
    let arguments = ["--from", "s@a.test", "--to", "r@b.test", "--body", "from swaks"];
    let Some((transcript, content)) = swaks(exim.address(), &arguments) else { return skip("swaks is not installed") };
    assert!(content, "{transcript}");
    assert!(wait_until(SOON, || exim.delivered().len() == 1), "{}", exim.log());
    let delivered = exim.delivered();
    assert_eq!((delivered[0].sender.as_str(), delivered[0].recipient.as_str()), ("s@a.test", "r@b.test"));
}

#[test]
fn an_injector_reaches_exim_and_postfix_octet_for_octet() {
    let Some(peers) = Peers::find_as_root() else { return skip(peers::MISSING) };
    let (exim, postfix) = (Exim::start(&peers, ""), Postfix::start(&peers, ""));
    for address in [exim.address(), postfix.address()] {
        let make = |number| Mail::generate(&format!("x.{number}"), 20_000, Body::EightBit, "s@a.test", &["r@b.test"]);
        assert_eq!(inject(address, 5, 1, &AtomicBool::new(false), make), [Answered::Accepted; 5]);
        let delivered = || if address == exim.address() { exim.delivered() } else { postfix.delivered() };
        assert!(wait_until(SOON, || delivered().len() == 5), "{}\n{}", exim.log(), postfix.log());
        for number in 0..5 {
            assert!(delivered().iter().any(|it| it.marked.as_ref() == Some(&make(number).marked())), "{number}");
        }
    }
}

#[test]
fn mlmmj_reaches_the_sink_with_its_own_verp_and_without() {
    let Some(peers) = Peers::find() else { return skip(peers::MISSING) };
    for verp in [Verp::Own, Verp::None, Verp::Xverp] {
        let sink = Sink::start();
        let list = Mlmmj::new(&peers, 20, sink.address(), verp);
        list.post("From: a@b.test\nTo: list@lists.test\nSubject: post\n\nHello\n");
        assert!(sink.wait(20, SOON), "{verp:?}: {:?}", sink.commands());
        let transactions = sink.transactions();
        let senders: std::collections::HashSet<_> = transactions.iter().map(|it| it.sender.clone()).collect();
        println!("{verp:?}: {} transactions, {} senders: {:?}", transactions.len(), senders.len(), sink.violations());
        assert_eq!(senders.len(), if verp == Verp::Own { 20 } else { 1 }, "{senders:?}");
    }
}
