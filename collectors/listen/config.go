package listen

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"

	"kemi"
)

// Config is what can be set about the listeners of a protocol.
type Config struct {
	// Listen is where it listens: "host:port" or "tcp://host:port", "tls://host:port", "udp://host:port", "unix:/path" (stream), "unixgram:/path". One
	// address or a list; none: off. If tls is configured and no address says tls://, those of TCP are meant.
	Listen Addresses `yaml:"listen"`
	// TokenFile holds the token whose records everything is that comes in. It is read again while running.
	TokenFile string `yaml:"tokenFile"`
	// Project is where the records go if the token may act in others than its own; "" = the token's.
	Project string `yaml:"project,omitempty"`
	// Allow is the networks that senders may come from. It is needed if somebody else than this machine can reach the address, unless client
	// certificates are. The sender's address of a datagram can be forged.
	Allow []string `yaml:"allow,omitempty"`
	TLS   TLS      `yaml:"tls,omitempty"`

	MaxConnections int           `yaml:"maxConnections"` // at a time; those beyond are closed
	IdleTimeout    time.Duration `yaml:"idleTimeout"`    // after which a silent connection is closed
	MaxLineBytes   int           `yaml:"maxLineBytes"`
}

// TLS is for connections, not for datagrams. With ClientCA a sender needs a certificate that it signed.
type TLS struct {
	Cert     string `yaml:"cert,omitempty"`
	Key      string `yaml:"key,omitempty"`
	ClientCA string `yaml:"clientCA,omitempty"`
}

// Addresses is one address or a list of them.
type Addresses []string

// UnmarshalYAML reads a text or a list.
func (a *Addresses) UnmarshalYAML(n *yaml.Node) error {
	var one string
	if n.Decode(&one) == nil {
		if *a = nil; one != "" {
			*a = Addresses{one}
		}
		return nil
	}
	var many []string
	if err := n.Decode(&many); err != nil {
		return err
	}
	*a = many
	return nil
}

// DefaultConfig is off.
func DefaultConfig() Config {
	return Config{MaxConnections: 512, IdleTimeout: 10 * time.Minute, MaxLineBytes: 16 << 10}
}

// On tells whether there is anything to listen on.
func (c Config) On() bool { return len(c.Listen) > 0 }

// address is an address taken apart.
type address struct {
	network, at string
	tls         bool
}

func (a address) datagrams() bool { return a.network == "udp" || a.network == "unixgram" }
func (a address) unix() bool      { return strings.HasPrefix(a.network, "unix") }

func parseAddress(s string) (address, error) {
	a := address{network: "tcp", at: s}
	for _, network := range []string{"tcp", "udp"} {
		if rest, ok := strings.CutPrefix(s, network+"://"); ok {
			a = address{network: network, at: rest}
		}
	}
	if rest, ok := strings.CutPrefix(s, "tls://"); ok {
		a = address{network: "tcp", at: rest, tls: true}
	}
	for _, network := range []string{"unix", "unixgram"} {
		if rest, ok := strings.CutPrefix(s, network+":"); ok {
			a = address{network: network, at: strings.TrimPrefix(rest, "//")}
			if a.at == "" {
				return a, kemi.Errorf(kemi.ErrInvalid, "listen: %q: needs a path", s)
			}
			return a, nil
		}
	}
	if _, _, err := net.SplitHostPort(a.at); err != nil {
		return a, kemi.Errorf(kemi.ErrInvalid, "listen: %q: must be host:port, tcp://host:port, tls://host:port, udp://host:port, unix:/path or unixgram:/path", s)
	}
	return a, nil
}

// secure tells whether connections to a are TLS.
func (c Config) secure(a address) bool {
	if c.TLS.Cert == "" || a.network != "tcp" {
		return false
	}
	for _, s := range c.Listen {
		if strings.HasPrefix(s, "tls://") {
			return a.tls
		}
	}
	return true
}

// local tells whether only this machine can reach it.
func (a address) local() bool {
	if a.unix() {
		return true
	}
	host, _, _ := net.SplitHostPort(a.at)
	ip := net.ParseIP(host)
	return host == "localhost" || ip != nil && ip.IsLoopback()
}

// Validate tells what is wrong, all of it.
func (c Config) Validate() error {
	var errs []error
	bad := func(format string, args ...any) { errs = append(errs, kemi.Errorf(kemi.ErrInvalid, format, args...)) }
	for _, s := range c.Listen {
		a, err := parseAddress(s)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		if a.tls && c.TLS.Cert == "" {
			bad("listen: %q: needs a certificate in tls.cert and tls.key", s)
		}
		if !a.local() && len(c.Allow) == 0 && (c.TLS.ClientCA == "" || !c.secure(a)) {
			bad("listen: %q can be reached by others than this machine: name the networks of the senders in allow, or ask for client certificates in tls.clientCA", s)
		}
	}
	if c.On() && c.TokenFile == "" {
		bad("tokenFile: empty; senders cannot say who they are, so name the file of the token whose records they shall be")
	}
	for _, s := range c.Allow {
		if _, err := netip.ParsePrefix(s); err != nil {
			bad("allow: %q: must be a network such as 10.0.0.0/8", s)
		}
	}
	if (c.TLS.Cert == "") != (c.TLS.Key == "") || c.TLS.ClientCA != "" && c.TLS.Cert == "" {
		bad("tls: needs both cert and key")
	}
	if c.MaxConnections <= 0 {
		bad("maxConnections: %d: must be more than 0", c.MaxConnections)
	}
	if c.IdleTimeout <= 0 {
		bad("idleTimeout: %s: must be more than 0", c.IdleTimeout)
	}
	if c.MaxLineBytes < 64 || c.MaxLineBytes > 16<<20 {
		bad("maxLineBytes: %d: must be between 64 and %d", c.MaxLineBytes, 16<<20)
	}
	return errors.Join(errs...)
}

// prefixes are the networks of Allow.
func (c Config) prefixes() []netip.Prefix {
	var out []netip.Prefix
	for _, s := range c.Allow {
		if p, err := netip.ParsePrefix(s); err == nil {
			out = append(out, p.Masked())
		}
	}
	return out
}

// Server is the configuration of TLS for a listener, or nil for none.
func (t TLS) Server() (*tls.Config, error) {
	if t.Cert == "" {
		return nil, nil //nolint:nilnil // nil is "no TLS"
	}
	cert, err := tls.LoadX509KeyPair(t.Cert, t.Key)
	if err != nil {
		return nil, kemi.Errorf(kemi.ErrInvalid, "tls: %w", err)
	}
	c := &tls.Config{Certificates: []tls.Certificate{cert}, MinVersion: tls.VersionTLS12}
	if t.ClientCA != "" {
		pem, err := os.ReadFile(t.ClientCA)
		if err != nil {
			return nil, kemi.Errorf(kemi.ErrInvalid, "tls.clientCA: %w", err)
		}
		c.ClientCAs = x509.NewCertPool()
		if !c.ClientCAs.AppendCertsFromPEM(pem) {
			return nil, kemi.Errorf(kemi.ErrInvalid, "tls.clientCA: %s holds no certificate", t.ClientCA)
		}
		c.ClientAuth = tls.RequireAndVerifyClientCert
	}
	return c, nil
}

// token is the token of TokenFile.
func (c Config) token() (string, error) {
	b, err := os.ReadFile(c.TokenFile)
	if err != nil {
		return "", kemi.Errorf(kemi.ErrInvalid, "tokenFile: %w", err)
	}
	t := strings.TrimSpace(string(b))
	if t == "" {
		return "", fmt.Errorf("tokenFile: %s is empty", c.TokenFile)
	}
	return t, nil
}
