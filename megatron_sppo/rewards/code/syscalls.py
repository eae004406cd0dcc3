"""System calls that a graded program is refused, with their numbers on x86_64 and aarch64 (`-`: no such call there).

Source: the kernel's `asm/unistd_64.h` and `asm-generic/unistd.h`. Calls newer than HIGHEST_KNOWN are refused as well.
"""

from __future__ import annotations

HIGHEST_KNOWN = 450  # set_mempolicy_home_node, Linux 5.17

# no socket of any family; a pair of connected ones is decided in seccomp.py
NETWORK = """
socket:41:198 connect:42:203 accept:43:202 accept4:288:242 bind:49:200 listen:50:201 sendmsg:46:211
sendmmsg:307:269 recvmmsg:299:243
"""

# reading, writing, signalling or starting other processes; leaving the session
OTHER_PROCESSES = """
ptrace:101:117 process_vm_readv:310:270 process_vm_writev:311:271 process_madvise:440:440 process_mrelease:448:448
kcmp:312:272 pidfd_open:434:434 pidfd_getfd:438:438 pidfd_send_signal:424:424 tkill:200:130 rt_sigqueueinfo:129:138
rt_tgsigqueueinfo:297:240 setpriority:141:140 ioprio_set:251:30 sched_setparam:142:118 sched_setscheduler:144:119
sched_setattr:314:274 sched_setaffinity:203:122 migrate_pages:256:238 move_pages:279:239 setpgid:109:154
setsid:112:157 fork:57:- vfork:58:-
"""

# what Landlock does not cover, or what lies in memory outside RLIMIT_AS
FILES = """
chmod:90:- fchmod:91:52 fchmodat:268:53 chown:92:- fchown:93:55 lchown:94:- fchownat:260:54 setxattr:188:5
lsetxattr:189:6 fsetxattr:190:7 removexattr:197:14 lremovexattr:198:15 fremovexattr:199:16 utime:132:- utimes:235:-
utimensat:280:88 futimesat:261:- truncate:76:45 memfd_create:319:279 memfd_secret:447:447 name_to_handle_at:303:264
open_by_handle_at:304:265 fanotify_init:300:262 flock:73:32
"""

# System V and POSIX queues, key rings: they would outlive the program
SHARED_MEMORY = """
shmget:29:194 shmat:30:196 shmctl:31:195 semget:64:190 semop:65:193 semctl:66:191 semtimedop:220:192 msgget:68:186
msgsnd:69:189 msgrcv:70:188 msgctl:71:187 mq_open:240:180 mq_unlink:241:181 keyctl:250:219 add_key:248:217
request_key:249:218
"""

# mounts, modules, clocks, and interfaces with a history of escapes
MACHINE = """
mount:165:40 umount2:166:39 pivot_root:155:41 chroot:161:51 unshare:272:97 setns:308:268 open_tree:428:428
move_mount:429:429 fsopen:430:430 fsconfig:431:431 fsmount:432:432 fspick:433:433 mount_setattr:442:442
kexec_load:246:104 kexec_file_load:320:294 reboot:169:142 swapon:167:224 swapoff:168:225 init_module:175:105
delete_module:176:106 finit_module:313:273 bpf:321:280 perf_event_open:298:241 userfaultfd:323:282
io_uring_setup:425:425 io_uring_enter:426:426 io_uring_register:427:427 io_setup:206:0 quotactl:179:60
quotactl_fd:443:443 acct:163:89 settimeofday:164:170 clock_settime:227:112 adjtimex:159:171 clock_adjtime:305:266
sethostname:170:161 setdomainname:171:162 syslog:103:116 lookup_dcookie:212:18 iopl:172:- ioperm:173:-
modify_ldt:154:- personality:135:92 vhangup:153:58 uselib:134:-
"""

# Decided by their arguments in seccomp.py.
CONDITIONAL = "clone:56:220 clone3:435:435 kill:62:129 tgkill:234:131 prlimit64:302:261 socketpair:53:199"

ARCHITECTURES = {"x86_64": (0xC000003E, 0), "aarch64": (0xC00000B7, 1)}  # AUDIT_ARCH_*, column of the tables


def numbers(table: str, column: int) -> dict[str, int]:
    """Name to number; without those that the architecture does not have."""
    rows = [entry.split(":") for entry in table.split()]
    return {row[0]: int(row[1 + column]) for row in rows if row[1 + column] != "-"}
