//! The listeners.

use super::{Check, Finding, HashMap, IpNet, Listen, Protocol, Spanned, defaults, raw};

impl Check<'_> {
    pub(super) fn listeners(&mut self, given: Vec<Spanned<raw::Listen>>, certificate: bool) -> Vec<Listen> {
        let networks: Vec<IpNet> =
            defaults::RELAY_FROM.iter().filter_map(|(address, length)| IpNet::new(*address, *length).ok()).collect();
        if given.is_empty() {
            return vec![Listen {
                address: defaults::LISTEN,
                protocol: defaults::PROTOCOL,
                pipeconnect: networks.clone(),
                relay_from: networks,
                starttls: certificate,
                implicit_tls: false,
                priority: defaults::PRIORITY,
                tag: None,
            }];
        }
        let mut seen = HashMap::new();
        let mut listeners = Vec::with_capacity(given.len());
        for listen in given {
            let listen = listen.into_inner();
            let Some(address) = self.socket("listen.address", &listen.address, None) else { continue };
            let line = self.line_of(listen.address.span().start);
            if address.port() != 0
                && let Some(first) = seen.insert(address, line)
            {
                self.find(
                    Finding::new(listen.address.span(), "two listeners on one address")
                        .label(format!("already taken in line {first}")),
                );
            }
            let implicit_tls = self.listens_with_tls(&listen, certificate);
            let protocol = [("smtp", Protocol::Smtp), ("lmtp", Protocol::Lmtp)];
            let relay_from = self.networks(listen.relay_from.as_deref()).unwrap_or_else(|| networks.clone());
            listeners.push(Listen {
                address,
                protocol: self.choice("protocol", listen.protocol.as_ref(), defaults::PROTOCOL, &protocol),
                pipeconnect: self.networks(listen.pipeconnect.as_deref()).unwrap_or_else(|| relay_from.clone()),
                relay_from,
                starttls: listen.starttls.map_or(certificate && !implicit_tls, Spanned::into_inner),
                implicit_tls,
                priority: self.priority(listen.priority.as_ref(), defaults::PRIORITY),
                tag: listen.tag.as_ref().and_then(|tag| self.tag(tag)),
            });
        }
        listeners
    }

    /// Whether TLS begins with the first octet.
    fn listens_with_tls(&mut self, listen: &raw::Listen, certificate: bool) -> bool {
        let implicit = listen.implicit_tls.as_ref().filter(|wanted| *wanted.get_ref());
        let starttls = listen.starttls.as_ref().filter(|wanted| *wanted.get_ref());
        if let Some(starttls) = starttls.filter(|_| !certificate) {
            self.find(
                Finding::new(starttls.span(), "STARTTLS without a certificate")
                    .help("add a [tls] table with certificate and key, or leave starttls out"),
            );
        }
        if let Some(implicit) = implicit.filter(|_| !certificate) {
            self.find(
                Finding::new(implicit.span(), "implicit TLS without a certificate")
                    .help("add a [tls] table with certificate and key, or leave implicit_tls out"),
            );
        }
        if let (Some(_), Some(starttls)) = (implicit, starttls) {
            self.find(
                Finding::new(starttls.span(), "STARTTLS where TLS begins with the first octet")
                    .help("leave one of starttls and implicit_tls out, or make two listeners"),
            );
        }
        implicit.is_some()
    }

    fn networks(&mut self, given: Option<&[Spanned<String>]>) -> Option<Vec<IpNet>> {
        Some(given?.iter().filter_map(|network| self.network(network)).collect())
    }
}
