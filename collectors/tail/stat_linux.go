package tail

import "syscall"

type unixStat = syscall.Stat_t
