//! How orders and frames become bytes: a length, a head in JSON, another length, and bytes that are
//! never dressed as text.

use super::{Frame, FrameBody, Order, OrderHead};

/// The largest head. An order's holds arguments and environment (at most 1 MiB of them) and the names
/// of at most some thousands of files.
pub const HEAD_BYTES_MAX: usize = 8 * 1024 * 1024;

/// The largest run of output in one frame.
pub const FRAME_BYTES_MAX: usize = 1024 * 1024;

const LENGTH: usize = size_of::<u32>();

#[derive(Debug, thiserror::Error)]
pub enum CodecError {
    #[error("a length of {length} is past the bound of {most}")]
    Length { length: usize, most: usize },
    #[error("cut short: {wanted} bytes were announced and {found} came")]
    Short { wanted: u64, found: u64 },
    #[error("bytes are left over")]
    Surplus,
    #[error("a head that is not understood")]
    Head(#[source] serde_json::Error),
}

/// Adds one frame to `out`.
pub fn encode_frame(frame: &Frame, out: &mut Vec<u8>) -> Result<(), CodecError> {
    let payload: &[u8] = match &frame.body {
        FrameBody::Output { bytes, .. } => bytes,
        _ => &[],
    };
    let head = serde_json::to_vec(frame).map_err(CodecError::Head)?;
    push_length(head.len(), HEAD_BYTES_MAX, out)?;
    push_length(payload.len(), FRAME_BYTES_MAX, out)?;
    out.extend_from_slice(&head);
    out.extend_from_slice(payload);
    Ok(())
}

/// Frames from bytes that arrive in whatever pieces.
#[derive(Debug, Default)]
pub struct FrameReader {
    buffer: Vec<u8>,
    read: usize,
}

impl FrameReader {
    pub fn push(&mut self, bytes: &[u8]) {
        self.buffer.drain(..self.read);
        self.read = 0;
        self.buffer.extend_from_slice(bytes);
    }

    /// The next whole frame, if it has arrived. After an error the stream means nothing any more.
    pub fn next_frame(&mut self) -> Result<Option<Frame>, CodecError> {
        let unread = &self.buffer[self.read..];
        let Some((head_length, rest)) = take_length(unread, HEAD_BYTES_MAX)? else { return Ok(None) };
        let Some((payload_length, rest)) = take_length(rest, FRAME_BYTES_MAX)? else { return Ok(None) };
        if rest.len() < head_length + payload_length {
            return Ok(None);
        }
        let (head, rest) = rest.split_at(head_length);
        let mut frame: Frame = serde_json::from_slice(head).map_err(CodecError::Head)?;
        match &mut frame.body {
            FrameBody::Output { bytes, .. } => *bytes = rest[..payload_length].to_vec(),
            _ if payload_length > 0 => return Err(CodecError::Surplus),
            _ => {}
        }
        self.read += 2 * LENGTH + head_length + payload_length;
        Ok(Some(frame))
    }
}

pub fn encode_order(order: &Order) -> Result<Vec<u8>, CodecError> {
    let head = serde_json::to_vec(&order.head).map_err(CodecError::Head)?;
    let mut out = Vec::with_capacity(LENGTH + head.len() + order.payload.len());
    push_length(head.len(), HEAD_BYTES_MAX, &mut out)?;
    out.extend_from_slice(&head);
    out.extend_from_slice(&order.payload);
    Ok(out)
}

pub fn decode_order(bytes: &[u8]) -> Result<Order, CodecError> {
    let short =
        |wanted: usize, found: usize| CodecError::Short { wanted: wanted as u64, found: found as u64 };
    let Some((head_length, rest)) = take_length(bytes, HEAD_BYTES_MAX)? else {
        return Err(short(LENGTH, bytes.len()));
    };
    if rest.len() < head_length {
        return Err(short(head_length, rest.len()));
    }
    let (head, payload) = rest.split_at(head_length);
    let head: OrderHead = serde_json::from_slice(head).map_err(CodecError::Head)?;
    let lengths = head.program.files.iter().map(|file| file.bytes).chain([head.program.stdin_bytes]);
    // A sum past 64 bits is past what came, too.
    let wanted = lengths.fold(0u64, u64::saturating_add);
    match payload.len() as u64 {
        found if found < wanted => Err(CodecError::Short { wanted, found }),
        found if found > wanted => Err(CodecError::Surplus),
        _ => Ok(Order { head, payload: payload.to_vec() }),
    }
}

fn push_length(length: usize, most: usize, out: &mut Vec<u8>) -> Result<(), CodecError> {
    match u32::try_from(length) {
        Ok(short) if length <= most => {
            out.extend_from_slice(&short.to_le_bytes());
            Ok(())
        }
        _ => Err(CodecError::Length { length, most }),
    }
}

/// A length, and what comes after it; `None` where not all of it has come.
fn take_length(bytes: &[u8], most: usize) -> Result<Option<(usize, &[u8])>, CodecError> {
    let Some((length, rest)) = bytes.split_first_chunk::<LENGTH>() else { return Ok(None) };
    let length = u32::from_le_bytes(*length) as usize;
    if length > most { Err(CodecError::Length { length, most }) } else { Ok(Some((length, rest))) }
}

#[cfg(test)]
mod tests;
