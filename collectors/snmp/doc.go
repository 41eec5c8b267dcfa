// Package snmp asks hosts by SNMP v2c and v3, the way to measure what no agent runs on.
//
// Which hosts there are, and what each is asked for, is read from the inventory anew with every run, so changes hold without a restart.
// A run makes one job for each host that is due and puts it on the bus; pollers take jobs from there, so that several can share them, and a
// restart loses none. A job says all that a poller has to know but the secrets, which only the configuration of pollers names.
//
// What a host is asked for are profiles: lists of objects and tables with the names of the metrics that they become. Four are built
// in; more are resources of the inventory. Counters are stored as they are read: that they wrap is for rate() to see.
//
// A sweep, which has to be asked for, looks for hosts in networks and enters those that answer in the inventory.
package snmp
