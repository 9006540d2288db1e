//! Two thousand clients that lose their gateway at once come back spread out.

use std::time::{Duration, Instant};

use tidegate_client::machine::Head;
use tidegate_client::machine::session::{Action, Session, SessionConfig};
use tidegate_client::{BackoffConfig, ChannelName, Choice, Failure, Limits, Since, Timing, Wire};

const CLIENTS: u32 = 2000;

/// A session that has had a publication on its stream, and its time.
fn connected(seed: u64, wire: Wire, now: Instant) -> Session {
    let config = SessionConfig {
        channels: vec![ChannelName::parse("a").unwrap()],
        since: Since::Now,
        choice: Choice::Only(wire),
        remembered: None,
        limits: Limits::default(),
        timing: Timing::default(),
        backoff: BackoffConfig::default(),
        attempts_max: None,
        // As the driver has it: random, not counted up.
        seed: fastrand::Rng::with_seed(seed).u64(..),
    };
    let mut session = Session::new(config, now).unwrap();
    session.handle_timeout(now);
    session.handle_head(head(wire), now);
    if wire == Wire::Sse {
        let retry = 1500 + seed % 1000;
        session.handle_data(format!("retry: {retry}\n\nid: C1\n\n").as_bytes(), now);
    }
    drain(&mut session);
    session
}

fn head(wire: Wire) -> Head {
    let (status, content_type) =
        if wire == Wire::Sse { (200, "text/event-stream") } else { (101, "") };
    Head { status, content_type: Some(content_type.into()), ..Head::default() }
}

/// Whether it wants to connect.
fn drain(session: &mut Session) -> bool {
    while session.poll_delivery().is_some() {}
    let actions: Vec<_> = std::iter::from_fn(|| session.poll_action()).collect();
    actions.iter().any(|it| matches!(it, Action::Connect(_)))
}

/// The attempts and the successes by second, where the gateway is away for so long and comes back.
fn herd(wire: Wire, away: Duration) -> (Vec<u32>, Vec<u32>) {
    let now = Instant::now();
    let (mut attempts, mut successes) = (Vec::new(), Vec::new());
    let count = |list: &mut Vec<u32>, at: Duration| {
        let second = usize::try_from(at.as_secs()).unwrap();
        list.resize(list.len().max(second + 1), 0);
        list[second] += 1;
    };
    for seed in 0..u64::from(CLIENTS) {
        let mut session = connected(seed, wire, now);
        // It had stood for a minute.
        let lost = now + Duration::from_secs(60);
        session.handle_failure(Failure::Cut("the gateway is gone".into()), lost);
        loop {
            drain(&mut session);
            let at = session.poll_timeout().unwrap();
            session.handle_timeout(at);
            if !drain(&mut session) {
                continue;
            }
            count(&mut attempts, at - lost);
            if at - lost >= away {
                count(&mut successes, at - lost);
                break;
            }
            let (address, reason) = (String::from("a:1"), String::from("refused"));
            session.handle_failure(Failure::Unreachable { address, reason }, at);
        }
    }
    (attempts, successes)
}

/// The busiest second over the mean of those from the first to the last that has any.
fn peak(by_second: &[u32]) -> f64 {
    let first = by_second.iter().position(|it| *it > 0).unwrap();
    let seconds = &by_second[first..];
    let mean = f64::from(seconds.iter().sum::<u32>()) / seconds.len() as f64;
    f64::from(*seconds.iter().max().unwrap()) / mean
}

#[test]
fn two_thousand_that_lose_it_at_once_come_back_spread_out() {
    for wire in [Wire::Ws, Wire::Sse] {
        for away in (0..20).chain([25, 30, 40, 60, 90, 120]) {
            let (attempts, successes) = herd(wire, Duration::from_secs(away));
            assert_eq!(successes.iter().sum::<u32>(), CLIENTS);
            let (most, back) = (attempts.iter().max().unwrap(), peak(&successes));
            println!(
                "{wire}, away {away:3} s: {most} attempts in a second, back {back:.2} × the mean"
            );
            assert!(back <= 3.0, "{wire}, away {away} s: {back}");
            assert!(f64::from(*most) <= 0.7 * f64::from(CLIENTS), "{wire}, away {away} s: {most}");
        }
    }
}
