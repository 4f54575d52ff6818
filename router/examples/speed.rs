//! How long one message with very many recipients takes: `cargo run --release -p zrelay-router --example speed`

use std::time::Instant;

use zrelay_config::Config;
use zrelay_router::{Router, Submitted};

fn main() {
    let routes = "[[route]]\nrecipient = '*.local.example'\nchannel = 'lmtp'\nhost = '[::1]'\n";
    let by_sender = "[[route]]\nsender = 'list-*@lists.example'\nrecipient = 'ann*@*.example.net'\nchannel = 'hold'\n";
    let addresses: Vec<String> = (0..50_000).map(|n| format!("user{n}@domain{}.example", n % 5000)).collect();
    for (name, text) in [("no routes", ""), ("a route by domain", routes), ("a route by sender", by_sender)] {
        let Ok(config) = Config::parse("speed", text) else { continue };
        let router = Router::new(&config);
        let recipients = || {
            (0u32..).zip(&addresses).map(|(index, address)| Submitted {
                index,
                address,
                sender: "list-1@lists.example",
            })
        };
        let start = Instant::now();
        let batches = (0..10).map(|_| router.route(10_000, recipients()).batches.len()).sum::<usize>() / 10;
        let each = start.elapsed() / 10;
        let per_recipient = each / 50_000;
        println!("{name}: 50000 recipients into {batches} batches: {each:.1?}, {per_recipient:?} each");
    }
}
