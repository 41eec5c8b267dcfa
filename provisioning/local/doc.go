// Package local is a pool of processes on this machine: a driver of autoscale groups that needs nothing else.
//
// An instance is a process in a session and process group of its own, started from the group's command without a shell. It is started again, with
// a growing pause, when it ends by itself; what it leaves running then is killed. It is stopped by a signal to its process group, and by SIGKILL
// after a timeout; the newest instances go first. When the configuration of a group changes, its instances are replaced one after another.
//
// Instances outlive a crash of the server: they are no one's death signal (Pdeathsig is not set: a server that is killed and started again
// must not take the pool down), and they write to files, not to pipes that would break. The next server adopts them. It knows its own by process
// id and start time, which a file holds, and by marks in the environment: KEMI_POOL names the folder that they belong to, KEMI_GROUP and
// KEMI_INSTANCE the place in it, KEMI_CONFIG what they were started with. A process that has
// neither is never touched. A server that is stopped in order stops its instances too, unless told to leave them.
//
// A group runs a command as the server's user, so only an admin may configure one. The command does not get the server's environment, which may
// hold secrets: PATH, HOME, USER, LOGNAME, SHELL, LANG, LC_ALL, TZ and TMPDIR, what the group says, and the marks.
package local
