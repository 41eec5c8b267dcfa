package snmp

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"math"
	"math/big"
	"net"
	"net/netip"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/gosnmp/gosnmp"

	"kemi"
)

const standardPort = 161

// session is a conversation with one host. It is for one goroutine.
type session struct {
	g    *gosnmp.GoSNMP
	rows int         // of a table, at most
	free func() bool // the context no longer closes the connection
}

// dial begins a conversation: it asks nothing yet.
func dial(ctx context.Context, c Config, name, project, address string) (*session, error) {
	cred, ok := c.Credentials[name]
	if !ok {
		return nil, kemi.Errorf(kemi.ErrInvalid, "credential %q: is not among snmp.credentials", name)
	}
	host, port := address, standardPort
	if h, p, err := net.SplitHostPort(address); err == nil {
		n, err := strconv.ParseUint(p, 10, 16)
		if err != nil {
			return nil, kemi.Errorf(kemi.ErrInvalid, "address %q: port %q", address, p)
		}
		host, port = h, int(n)
	}
	addr, err := resolve(ctx, host)
	if err != nil {
		return nil, err
	}
	if err := cred.allows(project, addr); err != nil {
		return nil, err
	}
	g := &gosnmp.GoSNMP{
		Context: ctx, Target: addr.String(), Port: uint16(port), Transport: "udp", Timeout: c.Timeout, Retries: c.Retries,
		MaxOids: maxOIDs, MaxRepetitions: uint32(c.MaxRepetitions),
	}
	if err := cred.apply(g); err != nil {
		return nil, fmt.Errorf("credential %s: %w", name, err)
	}
	if err := g.Connect(); err != nil {
		return nil, kemi.Errorf(kemi.ErrUnavailable, "connect to %s: %w", address, err)
	}
	// The library looks at the context between questions only: a closed connection ends one that waits.
	conn := g.Conn
	return &session{g: g, rows: c.MaxRows, free: context.AfterFunc(ctx, func() { _ = conn.Close() })}, nil
}

// maxOIDs is how many objects one question asks for: what fits into a packet of every agent.
const maxOIDs = 20

func resolve(ctx context.Context, host string) (netip.Addr, error) {
	if a, err := netip.ParseAddr(host); err == nil {
		return a, nil
	}
	list, err := net.DefaultResolver.LookupNetIP(ctx, "ip", host)
	if err != nil {
		return netip.Addr{}, kemi.Errorf(kemi.ErrUnavailable, "address %q: %w", host, err)
	}
	return list[0].Unmap(), nil
}

func (c Credential) apply(g *gosnmp.GoSNMP) error {
	var err error
	if c.Version == "2c" {
		g.Version = gosnmp.Version2c
		g.Community, err = secret("community", c.CommunityFile, c.CommunityEnv)
		return err
	}
	g.Version, g.SecurityModel, g.MsgFlags, g.ContextName = gosnmp.Version3, gosnmp.UserSecurityModel, gosnmp.NoAuthNoPriv, c.Context
	usm := &gosnmp.UsmSecurityParameters{UserName: c.User, AuthenticationProtocol: gosnmp.NoAuth, PrivacyProtocol: gosnmp.NoPriv}
	if c.AuthFile+c.AuthEnv != "" {
		g.MsgFlags, usm.AuthenticationProtocol = gosnmp.AuthNoPriv, authProtocols[c.AuthProtocol]
		if usm.AuthenticationPassphrase, err = secret("auth", c.AuthFile, c.AuthEnv); err != nil {
			return err
		}
	}
	if c.PrivFile+c.PrivEnv != "" {
		g.MsgFlags, usm.PrivacyProtocol = gosnmp.AuthPriv, privProtocols[c.PrivProtocol]
		if usm.PrivacyPassphrase, err = secret("priv", c.PrivFile, c.PrivEnv); err != nil {
			return err
		}
	}
	g.SecurityParameters = usm
	return nil
}

func (s *session) close() {
	s.free()
	if s.g.Conn != nil {
		_ = s.g.Conn.Close()
	}
}

// get asks for single objects; those that the host does not have are not in the answer.
func (s *session) get(oids []string) (map[string]gosnmp.SnmpPDU, error) {
	out := map[string]gosnmp.SnmpPDU{}
	for len(oids) > 0 {
		n := min(len(oids), maxOIDs)
		if err := s.getSome(oids[:n], out); err != nil {
			return out, err
		}
		oids = oids[n:]
	}
	return out, nil
}

func (s *session) getSome(oids []string, out map[string]gosnmp.SnmpPDU) error {
	p, err := s.g.Get(oids)
	switch {
	case err != nil:
		return s.failed("get", err)
	case p.Error == gosnmp.TooBig && len(oids) > 1:
		if err := s.getSome(oids[:len(oids)/2], out); err != nil {
			return err
		}
		return s.getSome(oids[len(oids)/2:], out)
	case p.Error != gosnmp.NoError:
		return kemi.Errorf(kemi.ErrUnavailable, "get %s …: the host answers %s", oids[0], p.Error)
	}
	for _, v := range p.Variables {
		if there(v) {
			out[plainOID(v.Name)] = v
		}
	}
	return nil
}

func there(v gosnmp.SnmpPDU) bool {
	return v.Type != gosnmp.NoSuchObject && v.Type != gosnmp.NoSuchInstance && v.Type != gosnmp.EndOfMibView && v.Type != gosnmp.Null && v.Value != nil
}

func plainOID(s string) string { return strings.TrimPrefix(s, ".") }

var errTooManyRows = errors.New("too many rows")

// column asks for a column of a table: its values by the index of the row.
func (s *session) column(oid string) (map[string]gosnmp.SnmpPDU, error) {
	oid = plainOID(oid)
	out := map[string]gosnmp.SnmpPDU{}
	err := s.g.BulkWalk(oid, func(v gosnmp.SnmpPDU) error {
		if index, ok := strings.CutPrefix(plainOID(v.Name), oid+"."); ok && there(v) {
			if len(out) >= s.rows {
				return errTooManyRows
			}
			out[index] = v
		}
		return nil
	})
	if errors.Is(err, errTooManyRows) {
		return out, kemi.Errorf(kemi.ErrLimited, "column %s: more than %d rows (snmp.maxRows)", oid, s.rows)
	}
	if err != nil {
		return out, s.failed("walk "+oid, err)
	}
	return out, nil
}

func (s *session) failed(what string, err error) error {
	if ctx := s.g.Context; ctx.Err() != nil {
		err = ctx.Err()
	}
	return kemi.Errorf(kemi.ErrUnavailable, "%s: %w", what, err)
}

// number is a value as a number; false if it is none. A text that is a number counts: some agents write floats so.
func number(v gosnmp.SnmpPDU) (float64, bool) {
	switch x := v.Value.(type) {
	case float32:
		return float64(x), true
	case float64:
		return x, true
	case []byte:
		f, err := strconv.ParseFloat(strings.TrimSpace(string(x)), 64)
		return f, err == nil && !math.IsNaN(f)
	case string:
		return 0, false // an address or an OID
	}
	f, _ := new(big.Float).SetInt(gosnmp.ToBigInt(v.Value)).Float64()
	return f, true
}

// maxText is how much of a text becomes a label.
const maxText = 1024

// words is a value as text: octets that are none in hexadecimal with colons, as one writes MAC addresses.
func words(v gosnmp.SnmpPDU) string {
	switch x := v.Value.(type) {
	case []byte:
		t := strings.TrimRight(string(x), "\x00")
		if !utf8.ValidString(t) || strings.ContainsFunc(t, func(r rune) bool { return unicode.IsControl(r) && !unicode.IsSpace(r) }) {
			return macLike(x)
		}
		if len(t) > maxText {
			t = strings.ToValidUTF8(t[:maxText], "")
		}
		return strings.TrimSpace(t)
	case string:
		return plainOID(x)
	}
	if f, ok := v.Value.(float32); ok {
		return strconv.FormatFloat(float64(f), 'g', -1, 32)
	}
	if f, ok := v.Value.(float64); ok {
		return strconv.FormatFloat(f, 'g', -1, 64)
	}
	return gosnmp.ToBigInt(v.Value).String()
}

func macLike(b []byte) string {
	if len(b) > maxText/3 {
		b = b[:maxText/3]
	}
	parts := make([]string, len(b))
	for i, x := range b {
		parts[i] = hex.EncodeToString([]byte{x})
	}
	return strings.Join(parts, ":")
}
