//! What all servers have in common that are next hops.

use super::{Aiosmtpd, Chasquid, Delivered, Dovecot, Exim, OpenSmtpd, Postfix, Sendmail};

/// A running server that keeps what it accepts.
pub trait Receiver {
    /// The host of a route that leads here.
    fn host(&self) -> String;

    /// What it delivered so far.
    fn delivered(&self) -> Vec<Delivered>;

    /// Its log so far.
    fn log(&self) -> String;
}

macro_rules! receivers {
    ($($server:ty),*) => {
        $(impl Receiver for $server {
            fn host(&self) -> String {
                <$server>::host(self)
            }

            fn delivered(&self) -> Vec<Delivered> {
                <$server>::delivered(self)
            }

            fn log(&self) -> String {
                <$server>::log(self)
            }
        })*
    };
}

receivers!(Postfix, Exim, OpenSmtpd, Sendmail, Chasquid, Dovecot, Aiosmtpd);
