//! The rules, given to the kernel over netlink: no `nft` and no library is needed for it.

mod batch;
mod expression;
mod message;
mod reply;

use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, netlink, recv, sendto, socket_with,
};

use self::batch::Batch;
pub use self::reply::{Reply, replies};
use crate::Ruleset;
use crate::failure::{Failure, Feature};
use crate::privileges::Privileges;

/// Longer than any answer: one carries the message it is about.
const DATAGRAM: usize = 64 * 1024;

/// Replaces the rules of this network namespace by `ruleset`, in one step: there is no moment without
/// rules, and whatever fails leaves those that were there.
///
/// # Errors
/// What the kernel lacks or does not allow, and what to do about it.
pub fn apply(ruleset: &Ruleset) -> Result<(), Failure> {
    let batch = Batch::replace(ruleset);
    let socket =
        socket_with(AddressFamily::NETLINK, SocketType::RAW, SocketFlags::CLOEXEC, Some(netlink::NETFILTER))
            .map_err(no_netlink)?;
    let kernel = netlink::SocketAddrNetlink::new(0, 0);
    sendto(&socket, &batch.bytes, SendFlags::empty(), &kernel).map_err(no_netlink)?;
    // The kernel has done its work when the sending returns, so that all answers are there.
    let mut answers = Vec::new();
    let mut datagram = vec![0; DATAGRAM];
    loop {
        match recv(&socket, datagram.as_mut_slice(), RecvFlags::DONTWAIT) {
            Ok((length, _)) => answers.extend(replies(datagram.get(..length).unwrap_or_default())),
            Err(Errno::INTR) => {}
            Err(Errno::AGAIN) => break,
            Err(error) => return Err(Failure::Unanswered { what: Some(error.to_string()) }),
        }
    }
    judge(&batch, &answers)
}

/// All or nothing: every step that changes something has been acknowledged, and none refused.
fn judge(batch: &Batch, answers: &[Reply]) -> Result<(), Failure> {
    if let Some(refused) = answers.iter().find(|reply| reply.error != 0) {
        let step = usize::try_from(refused.sequence).ok().and_then(|at| batch.steps.get(at));
        // The kernel has no other numbers, and the type takes no other ones.
        let number = i32::try_from(refused.error).ok().filter(|number| (1..4096).contains(number));
        let error = number.map_or(Errno::INVAL, Errno::from_raw_os_error);
        return Err(match error {
            Errno::PERM | Errno::ACCESS => Failure::NotPermitted(Privileges::of_this_process()),
            error => Failure::Refused {
                what: step.map_or_else(|| "the batch".to_owned(), |step| step.what.clone()),
                missing: step.and_then(|step| step.needs).and_then(|name| Feature::missing(name, error)),
                error,
            },
        });
    }
    // The first and the last message are the batch's own, which need no answer.
    let steps = batch.steps.len().saturating_sub(2);
    let done = answers.iter().filter(|reply| reply.error == 0).count();
    if done < steps {
        return Err(Failure::Unanswered { what: None });
    }
    Ok(())
}

fn no_netlink(error: Errno) -> Failure {
    match error {
        Errno::PERM | Errno::ACCESS => Failure::NotPermitted(Privileges::of_this_process()),
        Errno::PROTONOSUPPORT | Errno::AFNOSUPPORT | Errno::CONNREFUSED => Failure::NoNetfilter { error },
        error => Failure::Unanswered { what: Some(error.to_string()) },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Config;

    fn batch() -> Batch {
        Batch::replace(&Ruleset::new(Config::new(14021, 14021)).unwrap())
    }

    fn answers(batch: &Batch) -> Vec<Reply> {
        (1..batch.steps.len() as u32 - 1).map(|sequence| Reply { sequence, error: 0 }).collect()
    }

    #[test]
    fn only_a_batch_that_was_acknowledged_whole_is_done() {
        let batch = batch();
        let mut all = answers(&batch);
        assert!(judge(&batch, &all).is_ok());
        all.pop();
        assert!(matches!(judge(&batch, &all), Err(Failure::Unanswered { .. })));
        assert!(matches!(judge(&batch, &[]), Err(Failure::Unanswered { .. })));
    }

    #[test]
    fn a_refusal_names_what_the_kernel_lacks() {
        let batch = batch();
        for (word, expected) in [
            ("fib", "CONFIG_NFT_FIB_INET"),
            ("redirect", "CONFIG_NFT_REDIR"),
            ("reject", "CONFIG_NFT_REJECT"),
            ("ct state", "CONFIG_NFT_CT"),
            ("chain nat_pre", "CONFIG_NFT_NAT"),
        ] {
            let at = batch.steps.iter().position(|step| step.what.contains(word)).unwrap();
            let mut answers = answers(&batch);
            answers[at - 1].error = Errno::NOENT.raw_os_error().unsigned_abs();
            let said = judge(&batch, &answers).unwrap_err().to_string();
            assert!(said.contains(expected) && said.contains(word), "{said}");
        }
    }

    #[test]
    fn an_answer_to_nothing_of_ours_is_still_a_refusal() {
        let odd = [Reply { sequence: u32::MAX, error: u32::MAX }];
        assert!(matches!(judge(&batch(), &odd), Err(Failure::Refused { missing: None, .. })));
    }
}
