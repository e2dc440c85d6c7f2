use proptest::prelude::*;

use super::*;
use crate::dispatch::{Catalogue, Observation, Problem, ProblemCode, WaitStatus};

/// As the first release wrote them. Whatever becomes of the types, these stay readable.
const ORDER_V1: &str = include_str!("fixtures/order-v1.json");
const ENDED_V1: &str = include_str!("fixtures/ended-v1.json");
const CATALOGUE_V1: &str = include_str!("fixtures/catalogue-v1.json");

fn output(number: u64, bytes: &[u8]) -> Frame {
    let body = FrameBody::Output { stream: "stdout".to_owned(), offset: 7, bytes: bytes.to_vec() };
    Frame { number, body }
}

fn frames() -> Vec<Frame> {
    let seen = Observation { wait: Some(WaitStatus::Exited(3)), oom_kills: 1, ..Observation::default() };
    vec![
        Frame { number: 1, body: FrameBody::Ready { environment_digest: "blake3:00".to_owned() } },
        output(2, b"\x00\xff not text"),
        Frame { number: 0, body: FrameBody::Alive },
        output(3, b""),
        Frame { number: 4, body: FrameBody::Ended { seen: Box::new(seen) } },
        Frame { number: 0, body: FrameBody::Stale },
        Frame { number: 0, body: FrameBody::Replaced },
        Frame { number: 0, body: FrameBody::Closed },
    ]
}

fn order(payload: &[u8]) -> Result<Order, CodecError> {
    let head = serde_json::from_str(ORDER_V1).expect("an order of the first release is understood");
    decode_order(&encode_order(&Order { head, payload: payload.to_vec() }).expect("fits"))
}

proptest! {
    #[test]
    fn frames_come_whole_out_of_any_pieces(cuts in proptest::collection::vec(1usize..40, 1..60)) {
        let mut bytes = Vec::new();
        for frame in frames() {
            encode_frame(&frame, &mut bytes).expect("fits");
        }
        let (mut reader, mut heard, mut rest) = (FrameReader::default(), Vec::new(), &bytes[..]);
        for cut in cuts.iter().cycle() {
            if rest.is_empty() {
                break;
            }
            let (piece, more) = rest.split_at(rest.len().min(*cut));
            rest = more;
            reader.push(piece);
            while let Some(frame) = reader.next_frame().expect("sound") {
                heard.push(frame);
            }
        }
        prop_assert_eq!(heard, frames());
    }

    #[test]
    fn no_bytes_make_the_decoders_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        let mut reader = FrameReader::default();
        reader.push(&bytes);
        while let Ok(Some(_)) = reader.next_frame() {}
        let _ = decode_order(&bytes);
    }
}

#[test]
fn lengths_are_bounded_before_anything_is_kept() {
    let mut reader = FrameReader::default();
    reader.push(&u32::MAX.to_le_bytes());
    assert!(matches!(reader.next_frame(), Err(CodecError::Length { .. })));
    assert!(matches!(decode_order(&u32::MAX.to_le_bytes()), Err(CodecError::Length { .. })));
    let large = output(1, &vec![0; FRAME_BYTES_MAX + 1]);
    assert!(matches!(encode_frame(&large, &mut Vec::new()), Err(CodecError::Length { .. })));
}

#[test]
fn an_orders_bytes_are_exactly_those_that_were_announced() {
    // 5 of the one file, 2 of stdin.
    assert_eq!(order(b"print42").expect("exact").payload, b"print42");
    assert!(matches!(order(b"print4"), Err(CodecError::Short { wanted: 7, found: 6 })));
    assert!(matches!(order(b"print42x"), Err(CodecError::Surplus)));
}

/// With a field that only the next release knows, in the message and in what it holds.
fn newer(text: &str) -> String {
    let mut value: serde_json::Value = serde_json::from_str(text).expect("a fixture");
    let fields = value.as_object_mut().expect("an object");
    fields.insert("moat".to_owned(), 1.into());
    for inner in fields.values_mut().filter_map(serde_json::Value::as_object_mut) {
        inner.insert("moat".to_owned(), serde_json::json!({ "depth": 3 }));
    }
    value.to_string()
}

#[test]
fn what_the_next_release_adds_is_ignored() {
    let order: OrderHead = serde_json::from_str(&newer(ORDER_V1)).expect("an order");
    assert_eq!(order, serde_json::from_str(ORDER_V1).expect("an order"));
    let frame: Frame = serde_json::from_str(&newer(ENDED_V1)).expect("a frame");
    assert_eq!(frame, serde_json::from_str(ENDED_V1).expect("a frame"));
    let catalogue: Catalogue = serde_json::from_str(&newer(CATALOGUE_V1)).expect("a catalogue");
    assert_eq!(catalogue, serde_json::from_str(CATALOGUE_V1).expect("a catalogue"));
    let problem: Problem = serde_json::from_str(r#"{"status": 418, "code": "teapot"}"#).expect("a problem");
    assert_eq!(problem.code, ProblemCode::Unknown);
}

#[test]
fn what_the_first_release_wrote_means_what_it_meant() {
    let order: OrderHead = serde_json::from_str(ORDER_V1).expect("an order");
    assert_eq!((order.token, order.program.argv.len(), order.conduct.grace_ms), (12, 2, 500));
    let frame: Frame = serde_json::from_str(ENDED_V1).expect("a frame");
    let FrameBody::Ended { seen } = frame.body else { panic!("{frame:?}") };
    assert_eq!(seen.wait, Some(WaitStatus::Signaled(9)));
    assert_eq!(seen.kill.expect("a kill").cause, "wall_time");
    let catalogue: Catalogue = serde_json::from_str(CATALOGUE_V1).expect("a catalogue");
    assert_eq!((catalogue.capacities[0].free, catalogue.environments.len()), (1, 1));
}
