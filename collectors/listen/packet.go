package listen

import (
	"encoding/binary"
	"net"

	"golang.org/x/sys/unix"
)

const maxDatagram = 64 << 10

// tellDrops asks the system to say with each datagram how many it has dropped before.
func tellDrops(u *net.UDPConn) {
	raw, err := u.SyscallConn()
	if err != nil {
		return
	}
	_ = raw.Control(func(fd uintptr) { _ = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_RXQ_OVFL, 1) })
}

// reader reads the datagrams of a socket, one a call, into memory that it uses again, and counts those that were dropped before.
func (l *Listener) reader(c net.PacketConn) func() ([]byte, net.Addr, error) {
	buf := make([]byte, maxDatagram)
	u, ok := c.(*net.UDPConn)
	if !ok {
		return func() ([]byte, net.Addr, error) {
			n, from, err := c.ReadFrom(buf)
			return buf[:n], from, err
		}
	}
	dropped := l.o.Metrics.dropped.WithLabelValues(l.o.Name)
	control := make([]byte, unix.CmsgSpace(4))
	var seen uint32
	return func() ([]byte, net.Addr, error) {
		n, nc, _, from, err := u.ReadMsgUDP(buf, control)
		if err != nil {
			return nil, nil, err
		}
		if now, ok := drops(control[:nc]); ok && now != seen {
			dropped.Add(float64(now - seen)) // it wraps
			seen = now
		}
		return buf[:n], from, nil
	}
}

// drops is what a control message says of datagrams that were dropped, since the socket is open.
func drops(control []byte) (uint32, bool) {
	messages, err := unix.ParseSocketControlMessage(control)
	if err != nil {
		return 0, false
	}
	for _, m := range messages {
		if m.Header.Level == unix.SOL_SOCKET && m.Header.Type == unix.SO_RXQ_OVFL && len(m.Data) >= 4 {
			return binary.NativeEndian.Uint32(m.Data), true
		}
	}
	return 0, false
}
