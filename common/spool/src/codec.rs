//! Numbers and texts in the bodies of records.

/// A record's body does not make sense.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("malformed record")]
pub(crate) struct Malformed;

/// Writes to the end of a buffer.
pub(crate) struct Encoder<'a>(pub(crate) &'a mut Vec<u8>);

impl Encoder<'_> {
    pub(crate) fn u8(&mut self, value: u8) {
        self.0.push(value);
    }

    pub(crate) fn u16(&mut self, value: u16) {
        self.0.extend_from_slice(&value.to_le_bytes());
    }

    pub(crate) fn u32(&mut self, value: u32) {
        self.0.extend_from_slice(&value.to_le_bytes());
    }

    pub(crate) fn u64(&mut self, value: u64) {
        self.0.extend_from_slice(&value.to_le_bytes());
    }

    /// LEB128: seven bits in an octet, the lowest first.
    pub(crate) fn var(&mut self, mut value: u32) {
        while value >= 0x80 {
            self.0.push(value as u8 | 0x80);
            value >>= 7;
        }
        self.0.push(value as u8);
    }

    /// Its length, then the text.
    pub(crate) fn text(&mut self, text: &str) {
        self.var(text.len() as u32);
        self.0.extend_from_slice(text.as_bytes());
    }

    /// Their count, then the difference of each from the one before: one octet each when they are dense.
    pub(crate) fn indices(&mut self, indices: &[u32]) {
        self.var(indices.len() as u32);
        let mut last = 0;
        for index in indices {
            self.var(index.wrapping_sub(last));
            last = *index;
        }
    }
}

/// Reads from the front of a buffer.
pub(crate) struct Decoder<'a>(pub(crate) &'a [u8]);

impl<'a> Decoder<'a> {
    pub(crate) fn take(&mut self, octets: usize) -> Result<&'a [u8], Malformed> {
        let (taken, rest) = self.0.split_at_checked(octets).ok_or(Malformed)?;
        self.0 = rest;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], Malformed> {
        self.take(N)?.try_into().map_err(|_| Malformed)
    }

    pub(crate) fn u8(&mut self) -> Result<u8, Malformed> {
        Ok(self.array::<1>()?[0])
    }

    pub(crate) fn u16(&mut self) -> Result<u16, Malformed> {
        Ok(u16::from_le_bytes(self.array()?))
    }

    pub(crate) fn u32(&mut self) -> Result<u32, Malformed> {
        Ok(u32::from_le_bytes(self.array()?))
    }

    pub(crate) fn u64(&mut self) -> Result<u64, Malformed> {
        Ok(u64::from_le_bytes(self.array()?))
    }

    pub(crate) fn var(&mut self) -> Result<u32, Malformed> {
        let mut value = 0;
        for shift in [0, 7, 14, 21, 28] {
            let octet = self.u8()?;
            value |= u32::from(octet & 0x7f) << shift;
            if octet & 0x80 == 0 {
                return Ok(value);
            }
        }
        Err(Malformed)
    }

    /// A count of things of which each takes at least `octets_min`: never more than could be there.
    pub(crate) fn count(&mut self, octets_min: usize) -> Result<usize, Malformed> {
        let count = self.var()? as usize;
        if count > self.0.len() / octets_min.max(1) { Err(Malformed) } else { Ok(count) }
    }

    pub(crate) fn text(&mut self) -> Result<&'a str, Malformed> {
        let length = self.var()? as usize;
        std::str::from_utf8(self.take(length)?).map_err(|_| Malformed)
    }

    pub(crate) fn indices(&mut self) -> Result<Vec<u32>, Malformed> {
        let count = self.count(1)?;
        let mut indices = Vec::with_capacity(count);
        let mut last = 0u32;
        for _ in 0..count {
            last = last.wrapping_add(self.var()?);
            indices.push(last);
        }
        Ok(indices)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn what_was_encoded_is_decoded(indices: Vec<u32>, text: String, number: u32) {
            let mut octets = Vec::new();
            let mut encoder = Encoder(&mut octets);
            encoder.indices(&indices);
            encoder.text(&text);
            encoder.var(number);
            let mut decoder = Decoder(&octets);
            prop_assert_eq!(decoder.indices().unwrap(), indices);
            prop_assert_eq!(decoder.text().unwrap(), text);
            prop_assert_eq!(decoder.var().unwrap(), number);
            prop_assert!(decoder.0.is_empty());
        }
    }

    #[test]
    fn a_count_that_can_not_be_true_allocates_nothing() {
        assert_eq!(Decoder(&[0xff, 0xff, 0xff, 0xff, 0x0f, 1, 2]).indices(), Err(Malformed));
        assert_eq!(Decoder(&[0xff; 9]).var(), Err(Malformed));
    }
}
