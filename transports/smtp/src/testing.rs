//! Letters of plain octets for the tests.

use zrelay_spool::{Content, Handling, Notify, Ret};

use crate::letter::{Addressee, Letter};

/// A letter of plain octets.
#[derive(Clone, Debug)]
pub(crate) struct Parcel {
    pub(crate) body: Vec<u8>,
    pub(crate) slice: usize,
    pub(crate) content: Content,
    pub(crate) envid: Option<String>,
    pub(crate) ret: Option<Ret>,
    pub(crate) handling: Handling,
    /// Address, sender, ORCPT, NOTIFY.
    pub(crate) recipients: Vec<(String, String, Option<String>, Notify)>,
}

impl Parcel {
    pub(crate) fn new(body: &[u8]) -> Self {
        Self {
            body: body.to_vec(),
            slice: usize::MAX,
            content: Content::default(),
            envid: None,
            ret: None,
            handling: Handling::default(),
            recipients: Vec::new(),
        }
    }

    pub(crate) fn in_slices_of(mut self, octets: usize) -> Self {
        self.slice = octets;
        self
    }

    pub(crate) fn to(mut self, sender: &str, recipients: &[&str]) -> Self {
        self.recipients
            .extend(recipients.iter().map(|address| ((*address).into(), sender.into(), None, Notify::Default)));
        self
    }
}

impl Letter for Parcel {
    fn size(&self) -> u64 {
        self.body.len() as u64
    }

    fn slices(&self, from: u64) -> impl Iterator<Item = &[u8]> {
        self.body[from as usize..].chunks(self.slice)
    }

    fn content(&self) -> Content {
        self.content
    }

    fn envid(&self) -> Option<&str> {
        self.envid.as_deref()
    }

    fn ret(&self) -> Option<Ret> {
        self.ret
    }

    fn handling(&self) -> Handling {
        self.handling
    }

    fn recipient(&self, index: u32) -> Option<Addressee<'_>> {
        let (address, sender, orcpt, notify) = self.recipients.get(index as usize)?;
        let number = self.recipients.iter().position(|(_, other, ..)| other == sender)?;
        Some(Addressee { address, sender, sender_number: number as u32, orcpt: orcpt.as_deref(), notify: *notify })
    }
}
