//! What presence costs: `cargo bench -p tidegate-broker --bench presence`. The bytes of a channel
//! whose one member was told of and then cut (of private memory, where Linux tells it), and the time
//! of coming, going and a round in channels of many.

use std::time::{Duration, Instant};

use tidegate_broker::{Broker, LogBounds, MemoryBroker, MemoryConfig, Reply};
use tidegate_core::presence::{Member, Members, Parting};
use tidegate_core::{ChannelName, SessionId, Timestamp};

const CHANNELS: u32 = 100_000;

fn main() {
    let broker = broker();
    // First: what others have left would be used again.
    println!("a channel of one: {} bytes", bytes_of_a_channel(&broker));
    for members in [1, 100, 10_000, 100_000] {
        let Costs { join, round, leave } = costs(&broker, members);
        println!(
            "of {members:>7}: a join {join:>9.2?}  a leave {leave:>9.2?}  a round {round:>9.2?}"
        );
    }
}

fn bytes_of_a_channel(broker: &MemoryBroker) -> u64 {
    let before = private_bytes();
    let mut members = Members::default();
    for nth in 0..CHANNELS {
        let channel = name(&format!("flood.1.{nth}"));
        join(&mut members, &channel, nth);
        round(&mut members, broker);
        members.leave(&channel, SessionId(spread(nth)), Parting::Cut, Duration::ZERO);
    }
    let bytes = private_bytes().saturating_sub(before) / u64::from(CHANNELS);
    // Kept, or what freeing it costs would be seen in the times.
    std::mem::forget(members);
    bytes
}

struct Costs {
    join: Duration,
    leave: Duration,
    round: Duration,
}

fn costs(broker: &MemoryBroker, count: u32) -> Costs {
    let mut members = Members::default();
    let channel = name("crowd");
    let join = timed(count, |nth| join(&mut members, &channel, nth));
    round(&mut members, broker);
    // One comes, and is told.
    self::join(&mut members, &channel, count);
    let round = timed(1, |_| round(&mut members, broker));
    let leave = timed(count, |nth| {
        members.leave(&channel, SessionId(spread(nth)), Parting::Left, Duration::ZERO);
    });
    Costs { join, leave, round }
}

fn join(members: &mut Members, channel: &ChannelName, nth: u32) {
    let (session, joined) = (SessionId(spread(nth)), Timestamp(u64::from(nth)));
    let member = Member { id: session.to_string().into(), user: None, info: None, joined };
    members.join(channel, session, member);
}

fn round(members: &mut Members, broker: &MemoryBroker) {
    while let Some(channel) = members.due() {
        let (round, mine) = members.begin_round(&channel);
        let Reply::Now(Ok(everyone)) = broker.presence(&channel, mine.clone()) else { return };
        std::hint::black_box(members.end_round(&channel, round, mine, everyone));
    }
}

fn timed(count: u32, mut step: impl FnMut(u32)) -> Duration {
    let began = Instant::now();
    (0..count).for_each(&mut step);
    began.elapsed() / count
}

/// As random as sessions are, and the same in each run.
fn spread(nth: u32) -> u64 {
    u64::from(nth + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15)
}

fn name(name: &str) -> ChannelName {
    ChannelName::parse(name).expect("a legal name")
}

fn broker() -> MemoryBroker {
    MemoryBroker::new(MemoryConfig {
        epoch_seed: 1,
        bytes_max: 1 << 20,
        keys_max: 1,
        key_window: Duration::from_secs(120),
        bounds: std::sync::Arc::new(|_| LogBounds {
            messages: 1,
            bytes: 1 << 20,
            age: Duration::from_secs(1),
        }),
    })
}

fn private_bytes() -> u64 {
    let status = std::fs::read_to_string("/proc/self/smaps_rollup").unwrap_or_default();
    let line = status.lines().find_map(|it| it.strip_prefix("Private_Dirty:"));
    let kib =
        line.and_then(|it| it.trim().strip_suffix(" kB")).and_then(|it| it.trim().parse().ok());
    kib.unwrap_or(0_u64) * 1024
}
