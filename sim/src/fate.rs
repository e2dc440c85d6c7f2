//! What befalls processes, beside what befalls their calls: they are killed before one of their
//! polls, frozen past their leases, and cut off from the store or from each other.

use std::time::Duration;

use futures::FutureExt as _;

use crate::process::{LEASE_TTL, Shape};
use crate::rng::Rng;
use crate::scheduler::Node;
use crate::world::World;

/// Between two strokes at most.
const STROKE_EVERY_MAX: Duration = Duration::from_secs(6);

/// Polls that a doomed process has left at most: what it does between two strokes is not much more.
const POLLS_LEFT_MAX: u64 = 300;

/// Freezes and cuts last as long at most.
const LASTS_MAX: Duration = Duration::from_secs(LEASE_TTL.as_secs() * 5);

/// How often each of the strokes comes, drawn for a world.
#[derive(Clone, Copy, Debug)]
struct Temper {
    kill: u32,
    freeze: u32,
    part: u32,
}

/// Strikes until the world has calmed down.
pub(crate) fn start(world: &World, shape: Shape) {
    let temper = world.scheduler.draw(|rng: &mut Rng| {
        let mut often = || u32::try_from(rng.below(1000)).unwrap_or(0);
        Temper { kill: often(), freeze: often(), part: often() }
    });
    let striking = world.clone();
    world.scheduler.spawn(
        Node::Fate,
        async move {
            loop {
                striking.pause(STROKE_EVERY_MAX).await;
                if striking.is_calm() {
                    return;
                }
                strike(&striking, shape, temper);
            }
        }
        .boxed(),
    );
}

fn strike(world: &World, shape: Shape, temper: Temper) {
    let (workers, dispatchers) = (shape.workers(), shape.dispatchers());
    let everybody: Vec<Node> = workers.iter().chain(&dispatchers).copied().collect();
    if let Some(victim) = one_of(world, &everybody)
        && world.scheduler.draw(|rng| rng.chance(temper.kill))
    {
        let polls = world.scheduler.draw(|rng| rng.below(POLLS_LEFT_MAX));
        world.scheduler.note(format_args!("* {victim} is doomed in {polls} polls"));
        world.scheduler.doom(victim, polls);
    }
    if let Some(victim) = one_of(world, &everybody)
        && world.strikes("a process frozen", temper.freeze)
    {
        let time = world.scheduler.draw(|rng| rng.delay(LASTS_MAX));
        world.scheduler.note(format_args!("* {victim} is frozen for {time:?}"));
        world.scheduler.freeze(victim, world.scheduler.now().after(time));
    }
    if let Some(worker) = one_of(world, &workers)
        && world.strikes("a worker cut off from the store", temper.part)
    {
        cut(world, worker, Node::Store);
    }
    if let (Some(worker), Some(dispatcher)) = (one_of(world, &workers), one_of(world, &dispatchers))
        && world.strikes("a worker cut off from a dispatcher", temper.part)
    {
        cut(world, worker, dispatcher);
    }
}

fn one_of(world: &World, nodes: &[Node]) -> Option<Node> {
    let which = world.scheduler.draw(|rng| rng.below(nodes.len() as u64));
    usize::try_from(which).ok().and_then(|which| nodes.get(which)).copied()
}

fn cut(world: &World, one: Node, other: Node) {
    world.scheduler.note(format_args!("* {one} and {other} are cut off"));
    world.part(one, other);
    let mending = world.clone();
    world.scheduler.spawn(
        Node::Fate,
        async move {
            mending.pause(LASTS_MAX).await;
            mending.join(one, other);
        }
        .boxed(),
    );
}
