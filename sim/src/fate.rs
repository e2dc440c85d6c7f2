//! What befalls processes, beside what befalls their calls: they are killed before one of their
//! polls, frozen past their leases, and cut off from the store.

use std::time::Duration;

use futures::FutureExt as _;

use crate::process::LEASE_TTL;
use crate::rng::Rng;
use crate::scheduler::Node;
use crate::world::World;

/// Between two strokes at most.
const STROKE_EVERY_MAX: Duration = Duration::from_secs(6);

/// Polls that a doomed process has left at most: what it does between two strokes is not much more.
const POLLS_LEFT_MAX: u64 = 300;

/// How often each of the strokes comes, drawn for a world.
#[derive(Clone, Copy, Debug)]
struct Temper {
    kill: u32,
    freeze: u32,
    part: u32,
}

/// Strikes until the world has calmed down.
pub(crate) fn start(world: &World, victims: Vec<Node>) {
    let temper = world.scheduler.draw(|rng: &mut Rng| {
        let mut often = || u32::try_from(rng.below(1000)).unwrap_or(0);
        Temper { kill: often(), freeze: often(), part: often() }
    });
    let striking = world.clone();
    world.scheduler.spawn(
        Node::Fate,
        async move {
            while !striking.is_calm() {
                striking.pause(STROKE_EVERY_MAX).await;
                strike(&striking, &victims, temper);
            }
        }
        .boxed(),
    );
}

fn strike(world: &World, victims: &[Node], temper: Temper) {
    let which = world.scheduler.draw(|rng| rng.below(victims.len() as u64));
    let Some(victim) = usize::try_from(which).ok().and_then(|which| victims.get(which)).copied() else {
        return;
    };
    if world.is_calm() {
        return;
    }
    let roll = |per_mille| world.scheduler.draw(|rng| rng.chance(per_mille));
    if roll(temper.kill) {
        let polls = world.scheduler.draw(|rng| rng.below(POLLS_LEFT_MAX));
        world.scheduler.note(format_args!("* {victim} is doomed in {polls} polls"));
        world.scheduler.doom(victim, polls);
    }
    if world.strikes("a process frozen", temper.freeze) {
        let time = world.scheduler.draw(|rng| rng.delay(LEASE_TTL * 4));
        world.scheduler.note(format_args!("* {victim} is frozen for {time:?}"));
        world.scheduler.freeze(victim, world.scheduler.now().after(time));
    }
    if world.strikes("a process cut off from the store", temper.part) {
        cut(world, victim, Node::Store, LEASE_TTL * 4);
    }
}

/// For a while at most as long.
pub(crate) fn cut(world: &World, one: Node, other: Node, most: Duration) {
    world.scheduler.note(format_args!("* {one} and {other} are cut off"));
    world.part(one, other);
    let mending = world.clone();
    world.scheduler.spawn(
        Node::Fate,
        async move {
            mending.pause(most).await;
            mending.join(one, other);
        }
        .boxed(),
    );
}
