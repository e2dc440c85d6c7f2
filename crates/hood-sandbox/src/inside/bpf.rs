//! Seccomp filters as classic BPF. A search tree over ranges of system call numbers instead of a
//! list of comparisons: when a filter is installed the kernel runs it once for every number to learn
//! which are always allowed, and that is on the way of every evaluation.

use crate::sys::Instruction;

/// What a filter answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    Allow,
    Errno(u16),
    /// Ask the listener; without one the kernel answers ENOSYS.
    Notify,
    Kill,
    /// Allow if any clause has all its conditions true, else the error.
    Unless(&'static [&'static [Condition]], u16),
}

/// A condition on one argument of a system call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Condition {
    /// The low word is one of these. For arguments that the kernel takes as 32 bits.
    In(u8, &'static [u32]),
    /// The low word is none of these.
    NotIn(u8, &'static [u32]),
    /// No bit of the mask is set in the low word.
    Without(u8, u32),
    /// Some bit of the mask is set in the low word.
    With(u8, u32),
    /// A null pointer.
    Null(u8),
}

#[cfg(target_arch = "x86_64")]
const AUDIT_ARCH: u32 = 0xc000_003e;
#[cfg(target_arch = "aarch64")]
const AUDIT_ARCH: u32 = 0xc000_00b7;

/// Numbers from here on are x32's on x86-64 and nobody's elsewhere.
const FIRST_FOREIGN: u32 = 0x4000_0000;

const NUMBER_OFFSET: u32 = 0;
const ARCH_OFFSET: u32 = 4;
const fn low_word(argument: u8) -> u32 {
    16 + 8 * argument as u32
}

const LOAD: u16 = (libc::BPF_LD | libc::BPF_W | libc::BPF_ABS) as u16;
const RETURN: u16 = (libc::BPF_RET | libc::BPF_K) as u16;
const JUMP: u16 = (libc::BPF_JMP | libc::BPF_JA) as u16;
const IF_EQUAL: u16 = (libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K) as u16;
const IF_AT_LEAST: u16 = (libc::BPF_JMP | libc::BPF_JGE | libc::BPF_K) as u16;
const IF_ANY_BIT: u16 = (libc::BPF_JMP | libc::BPF_JSET | libc::BPF_K) as u16;

fn plain(code: u16, k: u32) -> Instruction {
    Instruction { code, jt: 0, jf: 0, k }
}

fn branch(code: u16, k: u32, jt: u8, jf: u8) -> Instruction {
    Instruction { code, jt, jf, k }
}

/// Compiles rules; a number without one gets `otherwise`, a call of a foreign architecture `foreign`.
pub(super) fn compile(
    rules: &[(libc::c_long, Verdict)],
    otherwise: Verdict,
    foreign: Verdict,
) -> Vec<Instruction> {
    let mut sorted: Vec<(u32, Verdict)> =
        rules.iter().filter_map(|(number, verdict)| Some((u32::try_from(*number).ok()?, *verdict))).collect();
    sorted.sort_by_key(|rule| rule.0);
    // Breakpoints: from each number on, this verdict, up to the next.
    let mut steps: Vec<(u32, Verdict)> = vec![(0, otherwise)];
    let mut push = |from: u32, verdict: Verdict| match steps.last_mut() {
        Some(last) if last.0 == from => last.1 = verdict,
        Some(last) if last.1 == verdict => {}
        _ => steps.push((from, verdict)),
    };
    for (number, verdict) in sorted {
        push(number, verdict);
        push(number + 1, otherwise);
    }
    push(FIRST_FOREIGN, foreign);
    let mut program = vec![plain(LOAD, ARCH_OFFSET)];
    let refuse = answer(foreign);
    program.push(branch(IF_EQUAL, AUDIT_ARCH, u8::try_from(refuse.len()).unwrap_or(u8::MAX), 0));
    program.extend(refuse);
    program.push(plain(LOAD, NUMBER_OFFSET));
    program.extend(search(&merged(&steps)));
    program
}

/// Joins neighbours that ended up with one verdict.
fn merged(steps: &[(u32, Verdict)]) -> Vec<(u32, Verdict)> {
    let mut merged: Vec<(u32, Verdict)> = Vec::with_capacity(steps.len());
    for step in steps {
        if merged.last().is_none_or(|last| last.1 != step.1) {
            merged.push(*step);
        }
    }
    merged
}

fn search(steps: &[(u32, Verdict)]) -> Vec<Instruction> {
    if let [(_, verdict)] = steps {
        return answer(*verdict);
    }
    let (left, right) = steps.split_at(steps.len() / 2);
    let pivot = right.first().map_or(0, |step| step.0);
    let (left, right) = (search(left), search(right));
    // A conditional jump reaches 255 instructions; the unconditional one reaches everything.
    let mut code =
        vec![branch(IF_AT_LEAST, pivot, 0, 1), plain(JUMP, u32::try_from(left.len()).unwrap_or(0))];
    code.extend(left);
    code.extend(right);
    code
}

fn answer(verdict: Verdict) -> Vec<Instruction> {
    let give = |value: u32| vec![plain(RETURN, value)];
    match verdict {
        Verdict::Allow => give(libc::SECCOMP_RET_ALLOW),
        Verdict::Errno(errno) => give(libc::SECCOMP_RET_ERRNO | u32::from(errno)),
        Verdict::Notify => give(libc::SECCOMP_RET_USER_NOTIF),
        Verdict::Kill => give(libc::SECCOMP_RET_KILL_PROCESS),
        Verdict::Unless(clauses, errno) => {
            let mut code = Vec::new();
            for clause in clauses {
                code.extend(self::clause(clause));
            }
            code.extend(answer(Verdict::Errno(errno)));
            code
        }
    }
}

/// Allows if all conditions hold, else runs on behind itself.
fn clause(conditions: &[Condition]) -> Vec<Instruction> {
    let mut code = answer(Verdict::Allow);
    for condition in conditions.iter().rev() {
        let mut test = test(*condition, code.len());
        test.extend(code);
        code = test;
    }
    code
}

/// Falls through if the condition holds, else skips `rest` instructions more.
fn test(condition: Condition, rest: usize) -> Vec<Instruction> {
    let skip = |after: usize| u8::try_from(rest + after).unwrap_or(u8::MAX);
    match condition {
        Condition::In(argument, values) => {
            let mut code = vec![plain(LOAD, low_word(argument))];
            for (index, value) in values.iter().enumerate() {
                let left = values.len() - 1 - index;
                let miss = if left == 0 { skip(0) } else { 0 };
                code.push(branch(IF_EQUAL, *value, u8::try_from(left).unwrap_or(u8::MAX), miss));
            }
            code
        }
        Condition::NotIn(argument, values) => {
            let mut code = vec![plain(LOAD, low_word(argument))];
            for (index, value) in values.iter().enumerate() {
                code.push(branch(IF_EQUAL, *value, skip(values.len() - 1 - index), 0));
            }
            code
        }
        Condition::Without(argument, mask) => {
            vec![plain(LOAD, low_word(argument)), branch(IF_ANY_BIT, mask, skip(0), 0)]
        }
        Condition::With(argument, mask) => {
            vec![plain(LOAD, low_word(argument)), branch(IF_ANY_BIT, mask, 0, skip(0))]
        }
        Condition::Null(argument) => vec![
            plain(LOAD, low_word(argument)),
            branch(IF_EQUAL, 0, 0, skip(2)),
            plain(LOAD, low_word(argument) + 4),
            branch(IF_EQUAL, 0, 0, skip(0)),
        ],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A classic BPF machine, as far as these programs need one.
    fn run(program: &[Instruction], arch: u32, number: u32, arguments: [u64; 6]) -> u32 {
        let word = |offset: u32| match offset {
            NUMBER_OFFSET => number,
            ARCH_OFFSET => arch,
            offset => {
                let argument = arguments[(offset as usize - 16) / 8];
                if offset % 8 == 0 { argument as u32 } else { (argument >> 32) as u32 }
            }
        };
        let (mut at, mut held) = (0usize, 0u32);
        loop {
            let step = program[at];
            at += 1;
            let jump = |taken: bool| usize::from(if taken { step.jt } else { step.jf });
            match step.code {
                LOAD => held = word(step.k),
                RETURN => return step.k,
                JUMP => at += step.k as usize,
                IF_EQUAL => at += jump(held == step.k),
                IF_AT_LEAST => at += jump(held >= step.k),
                IF_ANY_BIT => at += jump(held & step.k != 0),
                code => panic!("unexpected instruction {code}"),
            }
        }
    }

    const EPERM: u32 = libc::SECCOMP_RET_ERRNO | 1;
    const ENOSYS: u32 = libc::SECCOMP_RET_ERRNO | 38;

    fn sample() -> Vec<Instruction> {
        const SOCKET: Verdict = Verdict::Unless(
            &[&[Condition::In(0, &[1])], &[Condition::In(0, &[2, 10]), Condition::In(2, &[0, 6])]],
            1,
        );
        const LIMIT: Verdict = Verdict::Unless(&[&[Condition::NotIn(1, &[4, 5])], &[Condition::Null(2)]], 1);
        const CLONE: Verdict = Verdict::Unless(&[&[Condition::Without(0, 0x30)]], 1);
        let rules = [
            (41, SOCKET),
            (302, LIMIT),
            (56, CLONE),
            (57, Verdict::Unless(&[&[Condition::With(0, 0x100)]], 1)),
            (0, Verdict::Allow),
            (1, Verdict::Allow),
            (5, Verdict::Errno(1)),
        ];
        compile(&rules, Verdict::Errno(38), Verdict::Kill)
    }

    #[test]
    fn answers_each_number_with_its_own_rule() {
        let program = sample();
        let ask = |number| run(&program, AUDIT_ARCH, number, [0; 6]);
        assert_eq!(
            [0, 1, 2, 5, 6].map(ask),
            [libc::SECCOMP_RET_ALLOW, libc::SECCOMP_RET_ALLOW, ENOSYS, EPERM, ENOSYS]
        );
        assert_eq!(ask(FIRST_FOREIGN), libc::SECCOMP_RET_KILL_PROCESS);
        assert_eq!(ask(u32::MAX), libc::SECCOMP_RET_KILL_PROCESS);
        assert_eq!(ask(FIRST_FOREIGN - 1), ENOSYS);
        assert_eq!(run(&program, 0x4000_0003, 0, [0; 6]), libc::SECCOMP_RET_KILL_PROCESS);
    }

    #[test]
    fn looks_at_arguments_as_the_kernel_does() {
        let program = sample();
        let ask = |number, arguments| run(&program, AUDIT_ARCH, number, arguments);
        let allow = libc::SECCOMP_RET_ALLOW;
        assert_eq!(ask(41, [1, 1, 99, 0, 0, 0]), allow);
        assert_eq!(ask(41, [2, 1, 6, 0, 0, 0]), allow);
        assert_eq!(ask(41, [10, 1, 7, 0, 0, 0]), EPERM);
        assert_eq!(ask(41, [16, 1, 0, 0, 0, 0]), EPERM);
        // The kernel reads a 32-bit argument's low word, whatever is above it.
        assert_eq!(ask(41, [0xdead_0000_0000 + 16, 0, 0, 0, 0, 0]), EPERM);
        assert_eq!(ask(302, [0, 4, 0, 0, 0, 0]), allow);
        assert_eq!(ask(302, [0, 4, 8, 0, 0, 0]), EPERM);
        assert_eq!(ask(302, [0, 5, 1 << 40, 0, 0, 0]), EPERM);
        assert_eq!(ask(302, [0, 7, 8, 0, 0, 0]), allow);
        assert_eq!(ask(56, [0x11, 0, 0, 0, 0, 0]), EPERM);
        assert_eq!(ask(56, [0x01, 0, 0, 0, 0, 0]), allow);
        assert_eq!(ask(57, [0x101, 0, 0, 0, 0, 0]), allow);
        assert_eq!(ask(57, [0x0ff, 0, 0, 0, 0, 0]), EPERM);
    }
}
