//! White box: the codec against what an attacker or a newer version may send.

use proptest::collection::vec;
use proptest::prelude::*;

use super::codec::Body;
use super::*;

fn bytes(limit: usize) -> impl Strategy<Value = Vec<u8>> {
    vec(any::<u8>(), 0..limit)
}

fn assignment() -> impl Strategy<Value = Assignment> {
    let strings = || vec(bytes(20), 0..6);
    let numbers = (any::<u64>(), any::<u64>(), any::<u64>(), any::<u64>(), any::<u64>(), any::<u64>());
    (strings(), strings(), bytes(40), numbers, any::<bool>(), any::<Option<u64>>(), ".{0,60}").prop_map(
        |(argv, env, cwd, numbers, fail, sampled, traceparent)| Assignment {
            argv,
            env,
            cwd,
            wall_ms: numbers.0,
            grace_ms: numbers.1,
            output_bytes: numbers.2,
            on_output_limit: if fail { OnOutputLimit::Fail } else { OnOutputLimit::Truncate },
            open_files: numbers.3,
            file_bytes: numbers.4,
            sampled_memory_bytes: sampled,
            sampled_processes: sampled.map(|number| number / 2),
            orphan_after_ms: numbers.5,
            traceparent,
        },
    )
}

fn host_frame() -> impl Strategy<Value = HostFrame> {
    prop_oneof![
        assignment().prop_map(HostFrame::Assignment),
        assignment().prop_map(HostFrame::Build),
        (bytes(40), any::<bool>()).prop_map(|(path, executable)| HostFrame::File { path, executable }),
        bytes(300).prop_map(HostFrame::FileData),
        Just(HostFrame::Go),
        bytes(300).prop_map(HostFrame::Stdin),
        Just(HostFrame::StdinEnd),
        any::<u64>().prop_map(HostFrame::Ack),
        any::<u64>().prop_map(|grace_ms| HostFrame::Cancel { grace_ms }),
        Just(HostFrame::Kill),
    ]
}

fn stream() -> impl Strategy<Value = Stream> {
    prop_oneof![Just(Stream::Stdout), Just(Stream::Stderr)]
}

fn exit() -> impl Strategy<Value = Exit> {
    prop_oneof![any::<u8>().prop_map(Exit::Code), any::<u8>().prop_map(Exit::Signal)]
}

fn cause() -> impl Strategy<Value = Option<KillCause>> {
    proptest::option::of(prop_oneof![
        Just(KillCause::Deadline),
        Just(KillCause::Cancel),
        Just(KillCause::Kill),
        stream().prop_map(KillCause::OutputLimit),
        Just(KillCause::SampledMemory),
        Just(KillCause::SampledProcesses),
        Just(KillCause::ForeignCall),
    ])
}

fn streams() -> impl Strategy<Value = Streams> {
    (any::<u64>(), any::<u64>(), any::<bool>()).prop_map(|(written, kept, complete)| Streams {
        written,
        kept,
        complete,
    })
}

fn ending() -> impl Strategy<Value = Ending> {
    let usage =
        (any::<[u64; 6]>()).prop_map(|[wall_us, user_us, system_us, max_rss_bytes, reaped, blocked_us]| {
            Usage { wall_us, user_us, system_us, max_rss_bytes, reaped, blocked_us }
        });
    let foreign = any::<Option<(u32, u32)>>();
    (exit(), cause(), any::<bool>(), usage, streams(), streams(), foreign).prop_map(
        |(exit, cause, killed, usage, stdout, stderr, foreign)| Ending {
            exit,
            cause,
            killed,
            usage,
            stdout,
            stderr,
            foreign_call: foreign.map(|(arch, number)| ForeignCall { arch, number }),
        },
    )
}

fn lacking() -> impl Strategy<Value = Option<Lacking>> {
    let path = || prop::collection::vec(any::<u8>(), 1..60);
    prop_oneof![
        Just(None),
        path().prop_map(|path| Some(Lacking::Interpreter(path))),
        path().prop_map(|path| Some(Lacking::Loader(path))),
        path().prop_map(|path| Some(Lacking::Directory(path))),
        path().prop_map(|path| Some(Lacking::Unreadable(path))),
        Just(Some(Lacking::Unsearched)),
    ]
}

fn early_end() -> impl Strategy<Value = EarlyEnd> {
    let stage = prop_oneof![Just(Stage::Setup), Just(Stage::Inputs), Just(Stage::Cwd), Just(Stage::Exec)];
    prop_oneof![
        (stage, 0..=i32::MAX, bytes(60), lacking()).prop_map(|(stage, errno, detail, lacking)| {
            EarlyEnd::Refused { stage, errno, detail, lacking }
        }),
        (exit(), cause()).prop_map(|(exit, cause)| EarlyEnd::Died { exit, cause }),
    ]
}

fn agent_frame() -> impl Strategy<Value = AgentFrame> {
    prop_oneof![
        any::<(u32, u32)>().prop_map(|(version, oldest)| AgentFrame::Hello { version, oldest }),
        any::<u64>().prop_map(|setup_us| AgentFrame::Started { setup_us }),
        (stream(), any::<u64>(), bytes(300)).prop_map(|(stream, offset, bytes)| AgentFrame::Output {
            stream,
            offset,
            bytes
        }),
        stream().prop_map(|stream| AgentFrame::Truncated { stream }),
        ending().prop_map(AgentFrame::Ended),
        early_end().prop_map(AgentFrame::NotStarted),
    ]
}

/// Encodes frames, then reads them in pieces of the given size.
fn round_trip<B: Body>(frames: &[B], piece: usize) -> Result<Vec<B>, FrameError> {
    let mut stream = Vec::new();
    for (number, frame) in (1..).zip(frames) {
        encode(number, frame, &mut stream);
    }
    let mut reader = FrameReader::default();
    let mut read = Vec::new();
    for part in stream.chunks(piece) {
        reader.push(part);
        while let Some((number, frame)) = reader.next_frame()? {
            assert_eq!(number, read.len() as u64 + 1);
            read.push(frame);
        }
    }
    Ok(read)
}

/// Reads until there is nothing more or an error; both are fine, a panic is not.
fn read_all<B: Body>(bytes: &[u8]) {
    let mut reader = FrameReader::<B>::default();
    reader.push(bytes);
    while let Ok(Some(_)) = reader.next_frame() {}
}

proptest! {
    #[test]
    fn host_frames_survive_any_cutting(frames in vec(host_frame(), 0..8), piece in 1..200usize) {
        prop_assert_eq!(round_trip(&frames, piece), Ok(frames));
    }

    #[test]
    fn agent_frames_survive_any_cutting(frames in vec(agent_frame(), 0..8), piece in 1..200usize) {
        prop_assert_eq!(round_trip(&frames, piece), Ok(frames));
    }

    #[test]
    fn no_bytes_make_a_reader_panic(bytes in bytes(2000)) {
        read_all::<HostFrame>(&bytes);
        read_all::<AgentFrame>(&bytes);
    }

    /// Random bytes rarely get past the header; these do.
    #[test]
    fn no_fields_make_a_reader_panic(kind in 0..12u8, fields in bytes(400)) {
        let mut frame = u32::try_from(fields.len() + 9).unwrap().to_le_bytes().to_vec();
        frame.extend(1u64.to_le_bytes());
        frame.push(kind);
        frame.extend(fields);
        read_all::<HostFrame>(&frame);
        read_all::<AgentFrame>(&frame);
    }

    #[test]
    fn damage_is_an_error_or_a_frame_and_never_a_panic(
        frame in agent_frame(), cut in 0..500usize, at in 0..500usize, value: u8,
    ) {
        let mut bytes = Vec::new();
        encode(1, &frame, &mut bytes);
        if let Some(byte) = bytes.get_mut(at) {
            *byte = value;
        }
        bytes.truncate(cut);
        read_all::<AgentFrame>(&bytes);
    }

    /// A version that knows more fields is understood by one that does not.
    #[test]
    fn unknown_fields_are_stepped_over(frame in agent_frame(), extra in bytes(50)) {
        let mut bytes = Vec::new();
        encode(1, &frame, &mut bytes);
        bytes.push(200);
        bytes.extend(u32::try_from(extra.len()).unwrap().to_le_bytes());
        bytes.extend(&extra);
        let length = u32::try_from(bytes.len() - 4).unwrap();
        bytes[..4].copy_from_slice(&length.to_le_bytes());
        let mut reader = FrameReader::<AgentFrame>::default();
        reader.push(&bytes);
        prop_assert_eq!(reader.next_frame(), Ok(Some((1, frame))));
    }

    /// However the frames come, what is accepted begins with one hello, has gapless output within
    /// its bound, and ends with at most one terminal frame.
    #[test]
    fn a_conversation_accepts_only_what_fits(frames in vec(agent_frame(), 0..12), limit in 0..600u64) {
        let mut conversation = Conversation::new(limit);
        let accepted: Vec<&AgentFrame> =
            frames.iter().take_while(|frame| conversation.accept(frame).is_ok()).collect();
        let mut sums = [0u64; 2];
        for (index, frame) in accepted.iter().enumerate() {
            prop_assert_eq!(index == 0, matches!(frame, AgentFrame::Hello { .. }));
            if let AgentFrame::Output { stream, offset, bytes } = frame {
                let sum = &mut sums[usize::from(*stream == Stream::Stderr)];
                prop_assert_eq!(*offset, *sum);
                *sum += bytes.len() as u64;
                prop_assert!(*sum <= limit);
            }
            let terminal = matches!(frame, AgentFrame::Ended(_) | AgentFrame::NotStarted(_));
            prop_assert!(!terminal || index + 1 == accepted.len());
        }
    }
}

#[test]
fn lengths_and_numbers_are_held_to() {
    let next = |bytes: &[u8]| {
        let mut reader = FrameReader::<HostFrame>::default();
        reader.push(bytes);
        reader.next_frame()
    };
    assert_eq!(next(&u32::MAX.to_le_bytes()), Err(FrameError::TooLong(u64::from(u32::MAX) + 4)));
    assert_eq!(next(&[3, 0, 0, 0, 1, 2, 3]), Err(FrameError::TooShort(3)));
    let mut second = Vec::new();
    encode(2, &HostFrame::Go, &mut second);
    assert_eq!(next(&second), Err(FrameError::OutOfOrder { expected: 1, found: 2 }));
    let mut largest = Vec::new();
    encode(1, &HostFrame::FileData(vec![7; MAX_FRAME_BYTES - 13 - 5]), &mut largest);
    assert_eq!(largest.len(), MAX_FRAME_BYTES);
    assert!(matches!(next(&largest), Ok(Some((1, HostFrame::FileData(_))))));
    largest.insert(13, 0);
    largest[..4].copy_from_slice(&u32::try_from(MAX_FRAME_BYTES - 3).unwrap().to_le_bytes());
    assert_eq!(next(&largest), Err(FrameError::TooLong(MAX_FRAME_BYTES as u64 + 1)));
}

#[test]
fn a_conversation_goes_through_its_stages() {
    let hello = AgentFrame::Hello { version: VERSION, oldest: OLDEST_VERSION };
    let started = AgentFrame::Started { setup_us: 1 };
    let output =
        |offset, text: &[u8]| AgentFrame::Output { stream: Stream::Stdout, offset, bytes: text.to_vec() };
    let ended = |kept| {
        AgentFrame::Ended(Ending {
            exit: Exit::Code(0),
            cause: None,
            killed: false,
            usage: Usage::default(),
            stdout: Streams { written: kept, kept, complete: true },
            stderr: Streams::default(),
            foreign_call: None,
        })
    };
    let mut conversation = Conversation::new(5);
    for frame in [&hello, &started, &output(0, b"abc"), &output(3, b"de")] {
        conversation.accept(frame).unwrap();
    }
    assert!(conversation.has_started());
    let truncated = AgentFrame::Truncated { stream: Stream::Stdout };
    conversation.accept(&truncated).unwrap();
    conversation.accept(&ended(5)).unwrap();
    assert!(conversation.is_over());
    assert_eq!(conversation.accept(&ended(5)), Err(Breach::Unfitting("ended")));

    let running = || {
        let mut conversation = Conversation::new(5);
        conversation.accept(&hello).unwrap();
        conversation.accept(&started).unwrap();
        conversation
    };
    for bad in [output(1, b"a"), output(0, b""), output(0, b"abcdef")] {
        assert_eq!(running().accept(&bad), Err(Breach::Output));
    }
    assert_eq!(running().accept(&ended(1)), Err(Breach::Output), "a total that was never sent");
    assert_eq!(running().accept(&hello), Err(Breach::Unfitting("hello")));
    let mut twice = running();
    twice.accept(&truncated).unwrap();
    assert!(twice.accept(&truncated).is_err());
    assert_eq!(twice.accept(&output(0, b"a")), Err(Breach::Output), "output behind the cut");
    assert_eq!(
        Conversation::new(5).accept(&AgentFrame::Hello { version: 9, oldest: 9 }),
        Err(Breach::Version { version: 9, oldest: 9 })
    );
    assert_eq!(Conversation::new(5).accept(&started), Err(Breach::Unfitting("started")));
}

/// Of a build the same is said as of a program, and then, if it was let go, of the program.
#[test]
fn a_build_is_a_conversation_before_the_conversation() {
    let hello = AgentFrame::Hello { version: VERSION, oldest: OLDEST_VERSION };
    let started = AgentFrame::Started { setup_us: 1 };
    let output = |text: &[u8]| AgentFrame::Output { stream: Stream::Stdout, offset: 0, bytes: text.to_vec() };
    let died = AgentFrame::NotStarted(EarlyEnd::Died { exit: Exit::Signal(9), cause: None });
    let building = || {
        let mut conversation = Conversation::with_build(3, 5);
        conversation.accept(&hello).unwrap();
        conversation
    };
    let mut conversation = building();
    conversation.go_on();
    conversation.accept(&started).unwrap();
    assert_eq!(conversation.accept(&output(b"four")), Err(Breach::Output), "the build's own bound");

    let mut conversation = building();
    conversation.accept(&died).unwrap();
    assert!(!conversation.is_over());
    for frame in [&started, &output(b"a"), &died, &hello] {
        assert!(conversation.accept(frame).is_err(), "nobody let the program go: {frame:?}");
    }
    conversation.go_on();
    for frame in [&started, &output(b"five!")] {
        conversation.accept(frame).unwrap();
    }
    conversation.go_on();
    assert!(conversation.accept(&started).is_err(), "it goes on once");
}
