package host

import (
	"bytes"
	"slices"

	"kemi"
)

// network measures /proc/net/dev.
type network struct {
	c          *Collector
	path, sys  string
	interfaces keyed[iface]
}

type iface struct {
	series    []kemi.Labels // as networkColumns
	up        kemi.Labels
	operstate string
}

// networkColumns are the columns of /proc/net/dev; those without a name are left out.
var networkColumns = [16]string{
	"received_bytes_total", "received_packets_total", "receive_errors_total", "receive_drops_total", "", "", "", "received_multicast_total",
	"sent_bytes_total", "sent_packets_total", "send_errors_total", "send_drops_total", "", "send_collisions_total", "send_carrier_errors_total", "",
}

// pairEnds are names of the host's ends of containers' interfaces: there are as many as containers, and they are measured there.
var pairEnds = []string{"veth", "cali", "lxc"}

// maxInterfaces bounds the series of the network.
const maxInterfaces = 256

func newNetwork(c *Collector) *network {
	return &network{c: c, path: c.o.Proc + "/net/dev", sys: c.o.Sys + "/class/net/"}
}

func (a *network) newInterface(name string) iface {
	i := iface{series: make([]kemi.Labels, len(networkColumns)), up: a.c.series("data.network.up", "interface", name), operstate: a.sys + name + "/operstate"}
	for n, metric := range networkColumns {
		if metric != "" {
			i.series[n] = a.c.series("data.network."+metric, "interface", name)
		}
	}
	return i
}

func (a *network) collect(r *round) error {
	b, err := r.files.readPath(a.path)
	if err != nil {
		return err
	}
	n := 0
	var up []*iface
	for len(b) > 0 {
		var l []byte
		l, b = line(b)
		colon := bytes.LastIndexByte(l, ':') // an alias has one in its name
		if colon < 0 {
			continue
		}
		name, _ := field(l[:colon])
		if len(name) == 0 || slices.ContainsFunc(pairEnds, func(p string) bool { return bytes.HasPrefix(name, []byte(p)) }) {
			continue
		}
		if n++; n > maxInterfaces {
			break
		}
		i, _ := a.interfaces.get(r, name, a.newInterface)
		rest := l[colon+1:]
		for _, s := range i.series {
			var f []byte
			f, rest = field(rest)
			if v, ok := natural(f); ok && s != nil {
				r.emit(s, float64(v))
			}
		}
		up = append(up, i)
	}
	a.interfaces.forget(r)
	for _, i := range up { // now that the buffer is free
		state, err := r.files.readPath(i.operstate)
		if err != nil {
			continue
		}
		switch string(bytes.TrimSpace(state)) {
		case "up", "unknown": // loopback and tunnels do not know
			r.emit(i.up, 1)
		default:
			r.emit(i.up, 0)
		}
	}
	return nil
}

// protocols measures /proc/net/snmp and /proc/net/netstat: a line of names and a line of values for each protocol.
type protocols struct {
	paths  []string
	wanted map[string]kemi.Labels // by "Tcp:ActiveOpens"
	key    []byte
}

func newProtocols(c *Collector) *protocols {
	a := &protocols{paths: []string{c.o.Proc + "/net/snmp", c.o.Proc + "/net/netstat"}, wanted: map[string]kemi.Labels{}}
	for name, metric := range map[string]string{
		"Tcp:ActiveOpens": "tcp.active_opens_total", "Tcp:PassiveOpens": "tcp.passive_opens_total", "Tcp:AttemptFails": "tcp.attempt_fails_total",
		"Tcp:EstabResets": "tcp.established_resets_total", "Tcp:CurrEstab": "tcp.established", "Tcp:InSegs": "tcp.received_segments_total",
		"Tcp:OutSegs": "tcp.sent_segments_total", "Tcp:RetransSegs": "tcp.retransmitted_segments_total", "Tcp:InErrs": "tcp.receive_errors_total",
		"Tcp:OutRsts": "tcp.sent_resets_total", "TcpExt:ListenOverflows": "tcp.listen_overflows_total", "TcpExt:ListenDrops": "tcp.listen_drops_total",
		"TcpExt:TCPTimeouts": "tcp.timeouts_total", "TcpExt:SyncookiesSent": "tcp.syncookies_sent_total",
		"Udp:InDatagrams": "udp.received_datagrams_total", "Udp:OutDatagrams": "udp.sent_datagrams_total", "Udp:NoPorts": "udp.no_port_total",
		"Udp:InErrors": "udp.receive_errors_total", "Udp:RcvbufErrors": "udp.receive_buffer_errors_total", "Udp:SndbufErrors": "udp.send_buffer_errors_total",
		"Ip:InReceives": "ip.received_packets_total", "Ip:OutRequests": "ip.sent_packets_total", "Ip:ForwDatagrams": "ip.forwarded_packets_total",
		"Ip:InDiscards": "ip.receive_discards_total", "Ip:OutDiscards": "ip.send_discards_total", "Ip:ReasmFails": "ip.reassembly_fails_total",
		"Icmp:InMsgs": "icmp.received_total", "Icmp:OutMsgs": "icmp.sent_total", "Icmp:InErrors": "icmp.receive_errors_total",
	} {
		a.wanted[name] = c.series("data." + metric)
	}
	return a
}

func (a *protocols) collect(r *round) error {
	for _, path := range a.paths {
		b, err := r.files.readPath(path)
		if err != nil {
			return err
		}
		for len(b) > 0 {
			var titles, values []byte
			titles, b = line(b)
			values, b = line(b)
			protocol, titles := field(titles)
			same, values := field(values)
			if !bytes.Equal(protocol, same) {
				break
			}
			for {
				var title, value []byte
				title, titles = field(titles)
				value, values = field(values)
				if len(title) == 0 || len(value) == 0 {
					break
				}
				a.key = append(append(a.key[:0], protocol...), title...)
				if s, ok := a.wanted[string(a.key)]; ok {
					if v, ok := number(value); ok {
						r.emit(s, v)
					}
				}
			}
		}
	}
	return nil
}

// sockets measures how many there are and in which states TCP's are.
type sockets struct {
	sockstat, tcp []string
	wanted        map[string]scaled // by "TCP:inuse"
	states        [len(tcpStates)]kemi.Labels
	key           []byte
}

// tcpStates are by the kernel's number of the state.
var tcpStates = [13]string{1: "established", 2: "syn_sent", 3: "syn_recv", 4: "fin_wait1", 5: "fin_wait2", 6: "time_wait", 7: "close", 8: "close_wait",
	9: "last_ack", 10: "listen", 11: "closing", 12: "new_syn_recv"}

// maxSockets is how many sockets are looked at one by one: the kernel takes about a microsecond for each.
const maxSockets = 20_000

func newSockets(c *Collector) *sockets {
	a := &sockets{
		sockstat: []string{c.o.Proc + "/net/sockstat", c.o.Proc + "/net/sockstat6"}, tcp: []string{c.o.Proc + "/net/tcp", c.o.Proc + "/net/tcp6"},
		wanted: map[string]scaled{
			"sockets:used": {c.series("data.sockets.used"), 1}, "TCP:inuse": {c.series("data.tcp.inuse"), 1}, "TCP:orphan": {c.series("data.tcp.orphans"), 1},
			"TCP:tw": {c.series("data.tcp.time_wait"), 1}, "TCP:alloc": {c.series("data.tcp.allocated"), 1}, "TCP:mem": {c.series("data.tcp.memory_bytes"), float64(pageSize)},
			"UDP:inuse": {c.series("data.udp.inuse"), 1}, "UDP:mem": {c.series("data.udp.memory_bytes"), float64(pageSize)},
			"RAW:inuse": {c.series("data.sockets.raw"), 1}, "TCP6:inuse": {c.series("data.tcp6.inuse"), 1}, "UDP6:inuse": {c.series("data.udp6.inuse"), 1},
		},
	}
	for i, name := range tcpStates {
		if name != "" {
			a.states[i] = c.series("data.tcp.connections", "state", name)
		}
	}
	return a
}

func (a *sockets) collect(r *round) error {
	many := 0.0
	for i, path := range a.sockstat {
		b, err := r.files.readPath(path)
		if err != nil {
			if i > 0 {
				break // a machine without IPv6
			}
			return err
		}
		for len(b) > 0 {
			var l []byte
			l, b = line(b)
			kind, l := field(l)
			for {
				var name []byte
				if name, l = field(l); len(name) == 0 {
					break
				}
				var n uint64
				n, l = nextNatural(l)
				a.key = append(append(a.key[:0], kind...), name...)
				s, ok := a.wanted[string(a.key)]
				if !ok {
					continue
				}
				r.emit(s.series, float64(n)*s.factor)
				switch string(a.key) {
				case "TCP:inuse", "TCP:tw", "TCP6:inuse":
					many += float64(n)
				}
			}
		}
	}
	if many > maxSockets {
		return nil
	}
	var counts [len(tcpStates)]int
	for i, path := range a.tcp {
		err := r.files.lines(path, func(l []byte) {
			if f, _ := field(skip(l, 3)); len(f) == 2 {
				if s := unhex(f[0])<<4 | unhex(f[1]); s > 0 && s < len(counts) {
					counts[s]++
				}
			}
		})
		if err != nil && i == 0 {
			return err
		}
	}
	for i, s := range a.states {
		if s != nil {
			r.emit(s, float64(counts[i]))
		}
	}
	return nil
}

// unhex is the value of a hexadecimal digit, or a number that is too large for any.
func unhex(c byte) int {
	switch {
	case c >= '0' && c <= '9':
		return int(c - '0')
	case c >= 'A' && c <= 'F':
		return int(c-'A') + 10
	}
	return 256
}
