//! What nobody should send: the answers are clear, the hub does not grow, and it goes on serving.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use zrelay_tests::{Client, Hub, SOON, Sink, random, wait_until};

const ZRELAY: &str = env!("CARGO_BIN_EXE_zrelay");
/// What a hub may take more after abuse than before, octets.
const GROWTH: u64 = 64 << 20;

fn hub() -> (Sink, Hub) {
    let sink = Sink::start();
    let hub = Hub::towards(ZRELAY, &sink.host()).start();
    (sink, hub)
}

/// An ordinary message still goes through, and little memory is used.
#[track_caller]
fn still_serves(hub: &Hub, sink: &Sink, before: u64) {
    let count = sink.count();
    let reply = hub.client().mail("s@a.test", &["good@b.test"], b"Subject: good\r\n\r\ngood\r\n");
    assert_eq!(reply.code, 250, "{reply:?}");
    assert!(sink.wait(count + 1, SOON), "{}", hub.log());
    let after = hub.usage().resident;
    assert!(after < before + GROWTH, "grew from {before} to {after} octets");
    assert!(!hub.log().contains("panicked"), "{}", hub.log());
}

#[test]
fn garbage_does_no_harm() {
    let (sink, hub) = hub();
    let before = hub.usage().resident;
    let mut state = 7;
    for _ in 0..200 {
        let mut client = Client::connect(hub.smtp());
        let mut garbage = vec![0; 5000];
        for octet in &mut garbage {
            state = random(state);
            *octet = u8::try_from(state & 0xff).expect("masked");
        }
        client.send(&garbage);
        client.send(b"\r\nQUIT\r\n");
        client.shut();
        assert!(client.is_closed());
    }
    still_serves(&hub, &sink, before);
}

/// Writes in the background of reading, so that neither side waits for the other; what was read.
fn converse(hub: &Hub, write: impl FnOnce(&mut TcpStream) -> std::io::Result<()> + Send) -> Vec<u8> {
    let mut stream = TcpStream::connect(hub.smtp()).expect("the hub listens");
    stream.set_read_timeout(Some(Duration::from_secs(120))).expect("a timeout can be set");
    stream.set_write_timeout(Some(Duration::from_secs(120))).expect("a timeout can be set");
    let mut writer = stream.try_clone().expect("a socket can be cloned");
    std::thread::scope(|scope| {
        scope.spawn(move || {
            let _the_hub_may_hang_up = write(&mut writer);
            let _gone_already = writer.shutdown(std::net::Shutdown::Write);
        });
        let mut read = Vec::new();
        let _reset_is_an_end = stream.read_to_end(&mut read);
        read
    })
}

#[test]
fn a_line_of_100_mb_is_refused_and_not_kept() {
    let (sink, hub) = hub();
    let before = hub.usage().resident_peak;
    let read = converse(&hub, |stream| {
        let piece = vec![b'A'; 1 << 20];
        for _ in 0..100 {
            stream.write_all(&piece)?;
        }
        stream.write_all(b"\r\nNOOP\r\nQUIT\r\n")
    });
    let text = String::from_utf8_lossy(&read).into_owned();
    assert!(text.contains("\r\n500 ") || text.contains("\r\n421 "), "{text}");
    assert!(text.matches("\r\n500 ").count() <= 1, "answered once: {text}");
    assert!(hub.usage().resident_peak < before + GROWTH, "{:?}", hub.usage());
    still_serves(&hub, &sink, before);
}

#[test]
fn a_line_of_100_mb_within_data_is_not_kept_in_memory() {
    let sink = Sink::start();
    // The size limit refuses it in the end: what counts is that it is not gathered.
    let hub = Hub::towards(ZRELAY, &sink.host()).table("[intake]\nmessage_size = \"20MB\"").start();
    let before = hub.usage().resident_peak;
    let read = converse(&hub, |stream| {
        stream.write_all(b"EHLO c.test\r\nMAIL FROM:<s@a.test>\r\nRCPT TO:<r@b.test>\r\nDATA\r\n")?;
        let piece = vec![b'A'; 1 << 20];
        for _ in 0..100 {
            stream.write_all(&piece)?;
        }
        stream.write_all(b"\r\n.\r\nQUIT\r\n")
    });
    let text = String::from_utf8_lossy(&read).into_owned();
    assert!(text.contains("\r\n552 "), "{text}");
    assert!(hub.usage().resident_peak < before + GROWTH, "{:?}", hub.usage());
    still_serves(&hub, &sink, before);
}

#[test]
fn a_message_of_100_mb_costs_no_more_memory_than_a_small_one() {
    let (sink, hub) = hub();
    let before = hub.usage().resident_peak;
    let read = converse(&hub, |stream| {
        stream.write_all(b"EHLO c.test\r\nMAIL FROM:<s@a.test>\r\nRCPT TO:<r@b.test>\r\nDATA\r\nSubject: x\r\n\r\n")?;
        let line = [vec![b'A'; 998], b"\r\n".to_vec()].concat();
        let piece = line.repeat(1000);
        for _ in 0..100 {
            stream.write_all(&piece)?;
        }
        stream.write_all(b".\r\nQUIT\r\n")
    });
    let text = String::from_utf8_lossy(&read).into_owned();
    assert!(text.contains("\r\n354 ") && text.contains("\r\n221 ") && !text.contains("\r\n5"), "{text}");
    assert!(sink.wait(1, Duration::from_secs(120)), "{}", hub.json(&["threads"]));
    let text = sink.transactions()[0].text();
    let (_, body) = text.split_once("\r\n\r\n").expect("header and body");
    assert_eq!(body.bytes().filter(|octet| *octet == b'A').count(), 998 * 100_000);
    // Mapped pages of the spool count as resident and are the kernel's to take back; what the process itself holds
    // is anonymous memory.
    let own = anonymous(hub.id());
    assert!(own < before + GROWTH, "{own} octets, {:?}", hub.usage());
    sink.clear();
}

/// `RssAnon` of a process, octets.
fn anonymous(id: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{id}/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:")).unwrap_or_default();
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap_or(0) * 1024
}

#[test]
fn commands_out_of_order_are_told_so() {
    let (sink, hub) = hub();
    let before = hub.usage().resident;
    for (dialogue, codes) in [
        (&["MAIL FROM:<a@b.test>"][..], &[503][..]),
        (&["RCPT TO:<a@b.test>", "DATA"], &[503, 503]),
        (&["EHLO c", "DATA"], &[250, 503]),
        (&["EHLO c", "RCPT TO:<a@b.test>"], &[250, 503]),
        (&["EHLO c", "MAIL FROM:<a@b.test>", "MAIL FROM:<a@b.test>"], &[250, 250, 503]),
        (&["EHLO c", "MAIL FROM:<a@b.test>", "DATA"], &[250, 250, 554]),
        (&["EHLO c", "MAIL FROM:<a@b.test>", "EHLO c", "RCPT TO:<a@b.test>"], &[250, 250, 250, 503]),
        (&["EHLO c", "MAIL FROM:<a@b.test>", "RSET", "RCPT TO:<a@b.test>"], &[250, 250, 250, 503]),
        (&["LHLO c"], &[500]),
        (&["EHLO c", "BDAT 0 LAST"], &[250, 503]),
    ] {
        let mut client = Client::connect(hub.smtp());
        for (command, code) in dialogue.iter().zip(codes) {
            let reply = client.command(command);
            // MAIL without EHLO is taken by some servers; RFC 5321 allows both.
            let same = reply.code == *code || (dialogue.len() == 1 && reply.code / 100 == 5);
            assert!(same, "{dialogue:?}: {reply:?} to {command}");
        }
    }
    still_serves(&hub, &sink, before);
}

#[test]
fn bdat_with_wrong_sizes_is_told_so() {
    let (sink, hub) = hub();
    let before = hub.usage().resident;
    for argument in ["", "x", "-1", "99999999999999999999999", "5 FIRST", "5 LAST LAST"] {
        let mut client = hub.client();
        assert_eq!(client.command("MAIL FROM:<s@a.test>").code, 250);
        assert_eq!(client.command("RCPT TO:<r@b.test>").code, 250);
        let reply = client.command(&format!("BDAT {argument}"));
        assert_eq!(reply.code / 100, 5, "BDAT {argument}: {reply:?}");
    }
    // More than was announced: the rest is taken for commands.
    let mut client = hub.client();
    client.send(b"MAIL FROM:<s@a.test>\r\nRCPT TO:<r@b.test>\r\nBDAT 5 LAST\r\nab\r\n\nNOT A COMMAND\r\nNOOP\r\n");
    let codes: Vec<u16> = (0..3).map(|_| client.reply().code).collect();
    assert_eq!(codes[..2], [250, 250]);
    assert_eq!(codes[2] / 100, 5, "a bare LF in the content");
    assert_eq!((client.reply().code / 100, client.reply().code), (5, 250));
    // Less than was announced: it waits for the rest, and an end of the connection ends it.
    let mut client = hub.client();
    client.send(b"MAIL FROM:<s@a.test>\r\nRCPT TO:<r@b.test>\r\nBDAT 5000 LAST\r\nshort\r\n");
    assert_eq!((client.reply().code, client.reply().code), (250, 250));
    client.shut();
    assert!(client.is_closed());
    // More than the hub takes at all: the octets are on their way, and read, and refused.
    let read = converse(&hub, |stream| {
        stream.write_all(b"EHLO c\r\nMAIL FROM:<s@a.test>\r\nRCPT TO:<r@b.test>\r\nBDAT 104857601 LAST\r\n")?;
        for _ in 0..100 {
            stream.write_all(&[b'A'; 1 << 20])?;
        }
        stream.write_all(b"ANOOP\r\nQUIT\r\n")
    });
    let text = String::from_utf8_lossy(&read).into_owned();
    assert!(text.contains("\r\n552 "), "{text}");
    assert_eq!(hub.queued(), 0);
    assert_eq!(sink.count(), 0, "nothing of that was taken");
    still_serves(&hub, &sink, before);
}

#[test]
fn fifty_thousand_recipients_are_taken_and_one_more_is_not() {
    let sink = Sink::start();
    let hub = Hub::build(ZRELAY).route("*", "discard", "all").start();
    let before = hub.usage().resident;
    let mut client = hub.client();
    assert_eq!(client.command("MAIL FROM:<s@a.test>").code, 250);
    let mut sent = 0;
    while sent < 50_000 {
        let mut flight = Vec::new();
        for number in sent..sent + 1000 {
            flight.extend_from_slice(format!("RCPT TO:<recipient{number}@b.test>\r\n").as_bytes());
        }
        client.send(&flight);
        for number in sent..sent + 1000 {
            let reply = client.reply();
            assert_eq!(reply.code, 250, "recipient {number}: {reply:?}");
        }
        sent += 1000;
    }
    let reply = client.command("RCPT TO:<one-more@b.test>");
    assert_eq!(reply.code, 452, "{reply:?}");
    assert_eq!(client.command("DATA").code, 354);
    client.send(b"Subject: x\r\n\r\nx\r\n.\r\n");
    assert_eq!(client.reply().code, 250);
    assert!(hub.wait_until_empty(SOON), "{}", hub.json(&["threads"]));
    let _unused = sink;
    assert!(hub.usage().resident < before + 2 * GROWTH, "{:?}", hub.usage());
}

#[test]
fn a_client_that_leaves_at_any_moment_leaves_nothing_behind() {
    let (sink, hub) = hub();
    // All its loops are there when it has delivered something.
    still_serves(&hub, &sink, hub.usage().resident);
    let (before, taken) = (hub.usage(), sink.count());
    let dialogue =
        b"EHLO c.test\r\nMAIL FROM:<s@a.test>\r\nRCPT TO:<r@b.test>\r\nBDAT 6\r\nab\r\n\r\nBDAT 0\r\nRSET\r\n\
        MAIL FROM:<s@a.test>\r\nRCPT TO:<r@b.test>\r\nDATA\r\nSubject: x\r\n\r\nbody\r\n.\r";
    for end in 0..dialogue.len() {
        let mut client = Client::connect_silently(hub.smtp());
        client.send(&dialogue[..end]);
        if end % 2 == 0 {
            client.shut();
            assert!(client.is_closed(), "left after {end} octets");
        }
    }
    let closed = wait_until(SOON, || hub.usage().descriptors <= before.descriptors + 5);
    assert!(closed, "descriptors: {} before, {} after", before.descriptors, hub.usage().descriptors);
    assert_eq!(hub.queued(), 0);
    assert_eq!(sink.count(), taken);
    still_serves(&hub, &sink, before.resident);
}

#[test]
fn thousands_of_idle_clients_do_not_hinder_others() {
    let (sink, hub) = hub();
    let before = hub.usage().resident;
    // As many as the limit on descriptors of both processes lets us have, up to ten thousand.
    let mut idle = Vec::new();
    for _ in 0..10_000 {
        match TcpStream::connect(hub.smtp()) {
            Ok(stream) => idle.push(stream),
            Err(_) => break,
        }
    }
    println!("{} idle clients, {:?}", idle.len(), hub.usage());
    assert!(idle.len() >= 900, "{}", idle.len());
    // Room for the descriptors of one more client.
    idle.truncate(idle.len() - 20);
    still_serves(&hub, &sink, before + (200 << 20));
}

#[test]
fn a_client_that_never_reads_is_not_gathered_for() {
    let (sink, hub) = hub();
    let before = hub.usage().resident;
    let mut stream = TcpStream::connect(hub.smtp()).expect("the hub listens");
    stream.set_write_timeout(Some(Duration::from_secs(2))).expect("a timeout can be set");
    let flight = b"NOOP\r\n".repeat(100_000);
    // Some 60 MB of commands; the hub stops reading long before.
    for _ in 0..100 {
        if stream.write_all(&flight).is_err() {
            break;
        }
    }
    still_serves(&hub, &sink, before);
}

#[test]
fn a_next_hop_that_talks_nonsense_does_no_harm() {
    use std::net::TcpListener;
    let nonsense: [&[u8]; 6] = [
        b"220 ok\r\n250 unasked\r\n250 again\r\n",
        b"hello there\r\n",
        b"\x00\xff\xfe\r\n",
        b"220-never\r\n220-ending\r\n",
        b"554 go away\r\n",
        b"",
    ];
    for greeting in nonsense {
        let port = zrelay_tests::Port::free();
        let listener = TcpListener::bind(port.address()).expect("a reserved port is free");
        let server = std::thread::spawn(move || {
            for _ in 0..2 {
                let Ok((mut stream, _)) = listener.accept() else { return };
                let _it_may_hang_up = stream.write_all(greeting);
                let _ignored = stream.set_read_timeout(Some(Duration::from_millis(300)));
                let mut buffer = [0; 1000];
                while stream.read(&mut buffer).is_ok_and(|count| count > 0) {}
            }
        });
        let hub = Hub::build(ZRELAY)
            .route("*@b.test", "smtp", &format!("[127.0.0.1]:{}", port.number()))
            .clause("smtp/*", "interval = \"1s\"\nretries = [1]\ntimeout = \"5s\"")
            .start();
        assert_eq!(hub.client().mail("", &["r@b.test"], b"Subject: x\r\n\r\nx\r\n").code, 250);
        let settled = wait_until(SOON, || {
            !hub.log_lines(&["status=deferred"]).is_empty() || !hub.log_lines(&["status=bounced"]).is_empty()
        });
        assert!(settled, "{greeting:?}: {}", hub.json(&["threads"]));
        assert!(!hub.log().contains("panicked"), "{greeting:?}: {}", hub.log());
        drop(hub);
        let _ends_by_itself = server;
    }
}
