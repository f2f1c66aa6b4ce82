//! The system calls that a job is refused: those that build a namespace, look into another process, load code into the
//! kernel, or reach a part of it that has no use in a job and a history of holes.
//!
//! Refused by name rather than allowed by name: interpreters and their libraries learn new calls with every release, and
//! the namespaces and the empty set of capabilities stand behind this filter.

use std::collections::BTreeMap;

use libc::c_long;
use seccompiler::SeccompCmpArgLen::Dword;
use seccompiler::SeccompCmpOp::{Eq, MaskedEq, Ne};
use seccompiler::{
    BackendError, BpfProgram, SeccompAction, SeccompCondition, SeccompFilter, SeccompRule, TargetArch,
    sock_filter,
};

/// Refused whatever the arguments, with `EPERM`.
const REFUSED: &[c_long] = &[
    // Mounts.
    libc::SYS_mount,
    libc::SYS_umount2,
    libc::SYS_pivot_root,
    libc::SYS_chroot,
    libc::SYS_move_mount,
    libc::SYS_open_tree,
    libc::SYS_fsopen,
    libc::SYS_fsconfig,
    libc::SYS_fsmount,
    libc::SYS_fspick,
    libc::SYS_mount_setattr,
    libc::SYS_open_by_handle_at,
    libc::SYS_fanotify_init,
    libc::SYS_quotactl,
    libc::SYS_quotactl_fd,
    libc::SYS_swapon,
    libc::SYS_swapoff,
    // Namespaces; `clone` is refused by its flags below, `clone3` is unknown.
    libc::SYS_unshare,
    libc::SYS_setns,
    libc::SYS_sethostname,
    libc::SYS_setdomainname,
    // Other processes.
    libc::SYS_ptrace,
    libc::SYS_process_vm_readv,
    libc::SYS_process_vm_writev,
    libc::SYS_process_madvise,
    libc::SYS_pidfd_getfd,
    libc::SYS_kcmp,
    // Keys: the kernel's keyrings have no namespace.
    libc::SYS_keyctl,
    libc::SYS_add_key,
    libc::SYS_request_key,
    // Programs in the kernel, and what watches it.
    libc::SYS_bpf,
    libc::SYS_perf_event_open,
    libc::SYS_userfaultfd,
    libc::SYS_lookup_dcookie,
    libc::SYS_io_uring_setup,
    libc::SYS_io_uring_enter,
    libc::SYS_io_uring_register,
    // The machine.
    libc::SYS_kexec_load,
    #[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
    libc::SYS_kexec_file_load,
    libc::SYS_init_module,
    libc::SYS_finit_module,
    libc::SYS_delete_module,
    libc::SYS_reboot,
    libc::SYS_syslog,
    libc::SYS_acct,
    libc::SYS_vhangup,
    libc::SYS_settimeofday,
    libc::SYS_clock_settime,
    libc::SYS_clock_adjtime,
    libc::SYS_adjtimex,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_iopl,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_ioperm,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_modify_ldt,
];

/// What makes a `clone` the start of a namespace.
const NAMESPACE_FLAGS: [i32; 7] = [
    libc::CLONE_NEWNS,
    libc::CLONE_NEWCGROUP,
    libc::CLONE_NEWUTS,
    libc::CLONE_NEWIPC,
    libc::CLONE_NEWUSER,
    libc::CLONE_NEWPID,
    libc::CLONE_NEWNET,
];

/// The families of sockets that a job may open. Not all others respect the network namespace: one of them (vsock)
/// reaches from a virtual machine to its host.
const SOCKET_FAMILIES: [i32; 4] = [libc::AF_UNIX, libc::AF_INET, libc::AF_INET6, libc::AF_NETLINK];

/// Writing into a terminal as if it were typed there, and the same for Linux consoles.
const TERMINAL_REQUESTS: [u64; 2] = [0x5412, 0x541C];

/// System calls of the x32 interface have this bit. They are other numbers for the same calls, and nothing uses them.
const X32_BIT: u32 = 0x4000_0000;

/// The filter for this machine's processor, in the form in which the kernel takes it.
///
/// # Errors
/// When there is no filter for this kind of processor.
pub fn filter() -> Result<Vec<u8>, BackendError> {
    let arch = TargetArch::try_from(std::env::consts::ARCH)?;
    let refuse = SeccompAction::Errno(libc::EPERM.unsigned_abs());
    let filter = SeccompFilter::new(rules()?, SeccompAction::Allow, refuse, arch)?;
    let program: BpfProgram = filter.try_into()?;
    Ok(unknown().iter().chain(&program).flat_map(bytes).collect())
}

fn rules() -> Result<BTreeMap<i64, Vec<SeccompRule>>, BackendError> {
    let when = |argument, operator, value| SeccompCondition::new(argument, Dword, operator, value);
    let mut rules: BTreeMap<i64, Vec<SeccompRule>> =
        REFUSED.iter().map(|number| (*number, Vec::new())).collect();

    let clone = NAMESPACE_FLAGS.map(|flag| {
        let flag = u64::from(flag.unsigned_abs());
        SeccompRule::new(vec![when(0, MaskedEq(flag), flag)?])
    });
    rules.insert(libc::SYS_clone, clone.into_iter().collect::<Result<_, _>>()?);

    let families = SOCKET_FAMILIES.map(|family| when(0, Ne, u64::from(family.unsigned_abs())));
    let family = SeccompRule::new(families.into_iter().collect::<Result<_, _>>()?)?;
    rules.insert(libc::SYS_socket, vec![family.clone()]);
    rules.insert(libc::SYS_socketpair, vec![family]);

    let terminal = TERMINAL_REQUESTS.map(|request| SeccompRule::new(vec![when(1, Eq, request)?]));
    rules.insert(libc::SYS_ioctl, terminal.into_iter().collect::<Result<_, _>>()?);
    Ok(rules)
}

/// What comes before the rules: calls that seem not to exist. The flags of `clone3` are in memory, where no filter can
/// look; a library that is told that it is unknown falls back on `clone`.
fn unknown() -> [sock_filter; 4] {
    // The number of the call is the first word of what a filter looks at.
    let load_number = instruction(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0, 0, 0);
    let x32 = instruction(libc::BPF_JMP | libc::BPF_JGE | libc::BPF_K, 1, 0, X32_BIT);
    let clone3 = u32::try_from(libc::SYS_clone3).expect("system calls have small numbers");
    let clone3 = instruction(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, 0, 1, clone3);
    let answer = libc::SECCOMP_RET_ERRNO | libc::ENOSYS.unsigned_abs();
    [load_number, x32, clone3, instruction(libc::BPF_RET | libc::BPF_K, 0, 0, answer)]
}

fn instruction(code: u32, jt: u8, jf: u8, k: u32) -> sock_filter {
    sock_filter { code: u16::try_from(code).expect("operation codes have 16 bits"), jt, jf, k }
}

/// An instruction as `struct sock_filter` lies in memory.
fn bytes(instruction: &sock_filter) -> [u8; 8] {
    let [code_0, code_1] = instruction.code.to_ne_bytes();
    let [k_0, k_1, k_2, k_3] = instruction.k.to_ne_bytes();
    [code_0, code_1, instruction.jt, instruction.jf, k_0, k_1, k_2, k_3]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn filter_fits_into_what_the_kernel_takes_and_a_pipe_holds() {
        let length = filter().unwrap().len();
        // BPF_MAXINSNS instructions of 8 bytes; a pipe holds at least a page.
        assert!(length.is_multiple_of(8) && length < 4096, "{length}");
    }
}
