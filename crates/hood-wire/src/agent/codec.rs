//! Frames as bytes: a fixed header, then fields that each carry their own tag and length, so that a
//! reader steps over what it does not know.

use std::marker::PhantomData;

use super::MAX_FRAME_BYTES;

/// `length: u32` of everything after it, `number: u64`, `kind: u8`; little endian.
const HEADER_BYTES: usize = 4 + 8 + 1;
/// `tag: u8`, `length: u32`.
const FIELD_BYTES: usize = 1 + 4;

/// Most fields of one frame: arguments and environment are a field a string. It bounds what a frame
/// of empty fields can make a reader allocate.
const MAX_FIELDS: usize = 16 * 1024;

/// Why bytes are not the next frame. Any of these ends the conversation: after it nothing that
/// comes from the other side can be trusted to be framed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// The header promises more than a frame may hold.
    #[error("a frame of {0} bytes is longer than the {MAX_FRAME_BYTES} allowed")]
    TooLong(u64),
    /// The header promises less than a header.
    #[error("a frame of {0} bytes is shorter than its header")]
    TooShort(u32),
    /// Frames are numbered from 1 without gaps.
    #[error("frame {found} came where {expected} was due")]
    OutOfOrder {
        /// The number that was due.
        expected: u64,
        /// The number that came.
        found: u64,
    },
    /// More fields than any frame has.
    #[error("a frame of kind {0} has more than {MAX_FIELDS} fields")]
    TooManyFields(u8),
    /// The kind is none that this direction has.
    #[error("frame kind {0} is unknown")]
    UnknownKind(u8),
    /// A field's length runs past the frame.
    #[error("a field of frame kind {0} runs past the frame")]
    Truncated(u8),
    /// A field that the kind cannot do without is absent, or its bytes are not of its type.
    #[error("field {field} of frame kind {kind} is missing or malformed")]
    Field {
        /// The frame's kind.
        kind: u8,
        /// The field's tag.
        field: u8,
    },
}

/// A set of frames that travel in one direction.
pub trait Body: Sized {
    /// The kind's number on the wire.
    fn kind(&self) -> u8;
    /// Appends the fields.
    fn write(&self, fields: &mut Writer<'_>);
    /// Reads the fields of a frame of `kind`.
    ///
    /// # Errors
    /// The kind is unknown, or a needed field is missing or malformed.
    fn read(kind: u8, fields: &Fields<'_>) -> Result<Self, FrameError>;
}

/// Appends one frame to `out`.
pub fn encode<B: Body>(number: u64, body: &B, out: &mut Vec<u8>) {
    let start = out.len();
    out.extend_from_slice(&[0; 4]);
    out.extend_from_slice(&number.to_le_bytes());
    out.push(body.kind());
    body.write(&mut Writer { out });
    let length = u32::try_from(out.len() - start - 4).unwrap_or(u32::MAX);
    out[start..start + 4].copy_from_slice(&length.to_le_bytes());
}

/// Puts fields behind a frame's header.
#[derive(Debug)]
pub struct Writer<'a> {
    out: &'a mut Vec<u8>,
}

impl Writer<'_> {
    /// A byte string.
    pub fn bytes(&mut self, tag: u8, value: &[u8]) {
        self.out.push(tag);
        self.out.extend_from_slice(&u32::try_from(value.len()).unwrap_or(u32::MAX).to_le_bytes());
        self.out.extend_from_slice(value);
    }

    /// An unsigned number; every number is eight bytes, so that a field can widen without a new tag.
    pub fn number(&mut self, tag: u8, value: u64) {
        self.bytes(tag, &value.to_le_bytes());
    }

    /// A number that may be absent.
    pub fn maybe(&mut self, tag: u8, value: Option<u64>) {
        if let Some(value) = value {
            self.number(tag, value);
        }
    }
}

/// The fields of one frame, already known to lie within it.
#[derive(Debug)]
pub struct Fields<'a> {
    kind: u8,
    fields: Vec<(u8, &'a [u8])>,
}

impl<'a> Fields<'a> {
    fn parse(kind: u8, mut rest: &'a [u8]) -> Result<Self, FrameError> {
        let mut fields = Vec::new();
        while !rest.is_empty() {
            let Some((head, tail)) = rest.split_at_checked(FIELD_BYTES) else {
                return Err(FrameError::Truncated(kind));
            };
            let length = u32::from_le_bytes([head[1], head[2], head[3], head[4]]) as usize;
            let Some((value, tail)) = tail.split_at_checked(length) else {
                return Err(FrameError::Truncated(kind));
            };
            if fields.len() == MAX_FIELDS {
                return Err(FrameError::TooManyFields(kind));
            }
            fields.push((head[0], value));
            rest = tail;
        }
        Ok(Self { kind, fields })
    }

    /// All byte strings under `tag`, in order.
    pub fn all(&self, tag: u8) -> impl Iterator<Item = &'a [u8]> + '_ {
        self.fields.iter().filter(move |field| field.0 == tag).map(|field| field.1)
    }

    /// The byte string under `tag`.
    ///
    /// # Errors
    /// There is none.
    pub fn bytes(&self, tag: u8) -> Result<&'a [u8], FrameError> {
        self.all(tag).next().ok_or(self.bad(tag))
    }

    /// The number under `tag`.
    ///
    /// # Errors
    /// There is none, or it is not eight bytes.
    pub fn number(&self, tag: u8) -> Result<u64, FrameError> {
        self.maybe(tag)?.ok_or(self.bad(tag))
    }

    /// The number under `tag`, if there is one.
    ///
    /// # Errors
    /// It is not eight bytes.
    pub fn maybe(&self, tag: u8) -> Result<Option<u64>, FrameError> {
        match self.all(tag).next() {
            None => Ok(None),
            Some(bytes) => {
                let bytes = <[u8; 8]>::try_from(bytes).map_err(|_| self.bad(tag))?;
                Ok(Some(u64::from_le_bytes(bytes)))
            }
        }
    }

    /// The error for a field of this frame that cannot be used.
    #[must_use]
    pub fn bad(&self, field: u8) -> FrameError {
        FrameError::Field { kind: self.kind, field }
    }
}

/// Cuts a byte stream into frames and holds them to their numbers.
#[derive(Debug)]
pub struct FrameReader<B> {
    buffer: Vec<u8>,
    start: usize,
    expected: u64,
    body: PhantomData<B>,
}

impl<B: Body> Default for FrameReader<B> {
    fn default() -> Self {
        Self { buffer: Vec::new(), start: 0, expected: 1, body: PhantomData }
    }
}

impl<B: Body> FrameReader<B> {
    /// Adds what was read from the link. A caller that takes all frames after each push bounds the
    /// buffer by [`MAX_FRAME_BYTES`] plus one read.
    pub fn push(&mut self, bytes: &[u8]) {
        if self.start > 0 && (self.start == self.buffer.len() || self.start >= MAX_FRAME_BYTES) {
            self.buffer.drain(..self.start);
            self.start = 0;
        }
        self.buffer.extend_from_slice(bytes);
    }

    /// The next whole frame, with its number.
    ///
    /// # Errors
    /// The bytes are no frame, or not the one that was due.
    pub fn next_frame(&mut self) -> Result<Option<(u64, B)>, FrameError> {
        let Some(frame) = self.next_raw()? else { return Ok(None) };
        let (number, kind) = (self.expected, frame[12]);
        let body = B::read(kind, &Fields::parse(kind, &frame[HEADER_BYTES..])?)?;
        let length = frame.len();
        self.start += length;
        self.expected += 1;
        Ok(Some((number, body)))
    }

    fn next_raw(&self) -> Result<Option<&[u8]>, FrameError> {
        let pending = &self.buffer[self.start..];
        let Some(length) = pending.first_chunk::<4>() else { return Ok(None) };
        let length = u32::from_le_bytes(*length);
        let total = u64::from(length) + 4;
        if total > MAX_FRAME_BYTES as u64 {
            return Err(FrameError::TooLong(total));
        }
        if (total as usize) < HEADER_BYTES {
            return Err(FrameError::TooShort(length));
        }
        let Some(frame) = pending.get(..total as usize) else { return Ok(None) };
        let found = u64::from_le_bytes([
            frame[4], frame[5], frame[6], frame[7], frame[8], frame[9], frame[10], frame[11],
        ]);
        if found != self.expected {
            return Err(FrameError::OutOfOrder { expected: self.expected, found });
        }
        Ok(Some(frame))
    }
}
