//! Extended headers: `LENGTH KEY=VALUE\n`, where the length alone says where a record ends.

/// The most records in one header that are looked at.
const RECORDS_MAX: usize = 10_000;

/// What an entry's header says more than its own fields.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Extended {
    pub(super) path: Option<Vec<u8>>,
    pub(super) target: Option<Vec<u8>>,
    pub(super) size: Option<u64>,
    pub(super) has_attributes: bool,
    pub(super) sparse: Option<Sparse>,
}

/// A file with holes, as GNU tar writes them into extended headers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Sparse {
    pub(super) version: (u32, u32),
    pub(super) size: u64,
    pub(super) name: Option<Vec<u8>>,
    /// Offsets and lengths, by turns.
    pub(super) numbers: Vec<u64>,
}

impl Extended {
    pub(super) fn sparse_name(&self) -> Option<&[u8]> {
        self.sparse.as_ref()?.name.as_deref()
    }

    pub(super) fn read(&mut self, text: &[u8]) -> Result<(), String> {
        let mut rest = text;
        let mut records = 0;
        while !rest.is_empty() {
            records += 1;
            if records > RECORDS_MAX {
                return Err(format!("has more than {RECORDS_MAX} records in its extended header"));
            }
            let (key, value, after) = record(rest).ok_or("has an extended header that is none")?;
            self.take(key, value)?;
            rest = after;
        }
        Ok(())
    }

    fn take(&mut self, key: &[u8], value: &[u8]) -> Result<(), String> {
        match key {
            // An empty value takes back what an earlier header said.
            b"path" => self.path = (!value.is_empty()).then(|| value.to_vec()),
            b"linkpath" => self.target = (!value.is_empty()).then(|| value.to_vec()),
            b"size" => self.size = Some(number(value)?),
            _ if key.starts_with(b"SCHILY.xattr.") || key.starts_with(b"LIBARCHIVE.xattr.") => {
                self.has_attributes = true;
            }
            _ => {
                if let Some(key) = key.strip_prefix(b"GNU.sparse.") {
                    return self.take_sparse(key, value);
                }
            }
        }
        Ok(())
    }

    fn take_sparse(&mut self, key: &[u8], value: &[u8]) -> Result<(), String> {
        let sparse = self.sparse.get_or_insert_with(|| Sparse { version: (0, 1), ..Sparse::default() });
        match key {
            b"major" => sparse.version.0 = u32::try_from(number(value)?).unwrap_or(u32::MAX),
            b"minor" => sparse.version.1 = u32::try_from(number(value)?).unwrap_or(u32::MAX),
            b"name" => sparse.name = Some(value.to_vec()),
            b"size" | b"realsize" => sparse.size = number(value)?,
            b"map" => {
                sparse.numbers = value.split(|byte| *byte == b',').map(number).collect::<Result<_, _>>()?
            }
            // Format 0.0 repeats the keys, once for each piece.
            b"offset" | b"numbytes" => sparse.numbers.push(number(value)?),
            _ => {}
        }
        Ok(())
    }
}

fn record(text: &[u8]) -> Option<(&[u8], &[u8], &[u8])> {
    let space = text.iter().take(20).position(|byte| *byte == b' ')?;
    let length = usize::try_from(number(&text[..space]).ok()?).ok()?;
    let (record, after) = text.split_at_checked(length)?;
    let body = record.get(space + 1..)?.strip_suffix(b"\n")?;
    let equals = body.iter().position(|byte| *byte == b'=')?;
    Some((&body[..equals], &body[equals + 1..], after))
}

pub(super) fn number(text: &[u8]) -> Result<u64, String> {
    let digits = std::str::from_utf8(text).ok().filter(|text| text.bytes().all(|byte| byte.is_ascii_digit()));
    digits
        .and_then(|digits| digits.parse().ok())
        .ok_or_else(|| "has a header with what is no number".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &[u8]) -> Result<Extended, String> {
        let mut extended = Extended::default();
        extended.read(text).map(|()| extended)
    }

    #[test]
    fn values_hold_any_byte() {
        let extended =
            read(b"14 path=a\nb=\xff\n12 size=123\n27 SCHILY.xattr.user.a=\n\n=\n").expect("sound");
        assert_eq!(extended.path.as_deref(), Some(&b"a\nb=\xff"[..]));
        assert_eq!((extended.size, extended.has_attributes), (Some(123), true));
    }

    #[test]
    fn what_is_no_record_is_refused() {
        for text in [
            &b"x"[..],
            b"5 a=b",
            b"7 a=b\n",
            b"0 a=b\n",
            b"99999999999999999999 a=b\n",
            b"-6 a=b\n",
            b"6 ab\xff\n",
            b"11 size=-1\n",
            b"3 \n",
        ] {
            assert!(read(text).is_err(), "{text:?}");
        }
    }
}
