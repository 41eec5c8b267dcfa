package snmp

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/gosnmp/gosnmp"

	"kemi"
)

// Config is what can be set about SNMP. Without a credential nothing is asked.
type Config struct {
	// Interval is how often a host is asked that does not say so itself.
	Interval time.Duration `yaml:"interval"`
	// Timeout is how long to wait for an answer, Retries how often to ask again. PollTimeout bounds all questions of one poll.
	Timeout     time.Duration `yaml:"timeout"`
	Retries     int           `yaml:"retries"`
	PollTimeout time.Duration `yaml:"pollTimeout"`
	// Workers is how many hosts are asked at once; one host is never asked twice at once.
	Workers int `yaml:"workers"`
	// MaxRepetitions is how many rows one question asks for, MaxRows how many rows of a table are taken.
	MaxRepetitions int `yaml:"maxRepetitions"`
	MaxRows        int `yaml:"maxRows"`
	// Profiles are what a host is asked for that does not say so itself.
	Profiles []string `yaml:"profiles"`
	// Credentials are how to ask, by the names that the inventory uses.
	Credentials map[string]Credential `yaml:"credentials,omitempty"`
	// Discovery are the networks in which hosts are looked for.
	Discovery []Sweep `yaml:"discovery,omitempty"`
}

// Credential is how to ask. Secrets are in files or in the environment; they are read when they are used.
type Credential struct {
	// Version is "2c" or "3".
	Version string `yaml:"version"`
	// Of version 2c.
	CommunityFile string `yaml:"communityFile,omitempty"`
	CommunityEnv  string `yaml:"communityEnv,omitempty"`
	// Of version 3. AuthProtocol is SHA, SHA224, SHA256, SHA384 or SHA512, PrivProtocol AES, AES192, AES256 (or the variants AES192C, AES256C of
	// some vendors). Without passphrase files there is no authentication or no encryption.
	User         string `yaml:"user,omitempty"`
	AuthProtocol string `yaml:"authProtocol,omitempty"`
	AuthFile     string `yaml:"authFile,omitempty"`
	AuthEnv      string `yaml:"authEnv,omitempty"`
	PrivProtocol string `yaml:"privProtocol,omitempty"`
	PrivFile     string `yaml:"privFile,omitempty"`
	PrivEnv      string `yaml:"privEnv,omitempty"`
	Context      string `yaml:"context,omitempty"`
	// Projects are those whose hosts may name the credential, Networks where it may be sent: whoever may write to the inventory could
	// otherwise have it sent to himself. By default the project default, and the private networks.
	Projects []string `yaml:"projects,omitempty"`
	Networks []string `yaml:"networks,omitempty"`
}

// Sweep is networks in which hosts are looked for.
type Sweep struct {
	Networks    []string      `yaml:"networks"`
	Credentials []string      `yaml:"credentials"` // tried in this order
	Project     string        `yaml:"project"`     // that hosts are entered in; by default "default"
	Interval    time.Duration `yaml:"interval"`    // between two sweeps; by default 1h
	Rate        int           `yaml:"rate"`        // addresses a second; by default 50
	Port        int           `yaml:"port"`        // by default 161
	Profiles    []string      `yaml:"profiles,omitempty"`
}

// DefaultConfig is the configuration that nobody has changed: no credentials, so nothing is asked.
func DefaultConfig() Config {
	return Config{
		Interval: time.Minute, Timeout: 2 * time.Second, Retries: 2, PollTimeout: 30 * time.Second, Workers: 32, MaxRepetitions: 25, MaxRows: 10_000,
		Profiles: []string{"system", "interfaces"},
	}
}

// The limits of a sweep.
const (
	maxSweepAddresses = 1 << 16
	maxSweepRate      = 1000
)

// privateNetworks are where a credential may be sent that does not say so.
var privateNetworks = []string{"10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "169.254.0.0/16", "127.0.0.0/8", "100.64.0.0/10", "::1/128", "fc00::/7", "fe80::/10"}

var authProtocols = map[string]gosnmp.SnmpV3AuthProtocol{
	"SHA": gosnmp.SHA, "SHA224": gosnmp.SHA224, "SHA256": gosnmp.SHA256, "SHA384": gosnmp.SHA384, "SHA512": gosnmp.SHA512,
}

var privProtocols = map[string]gosnmp.SnmpV3PrivProtocol{
	"AES": gosnmp.AES, "AES192": gosnmp.AES192, "AES256": gosnmp.AES256, "AES192C": gosnmp.AES192C, "AES256C": gosnmp.AES256C,
}

// Enabled tells whether anybody can be asked.
func (c Config) Enabled() bool { return len(c.Credentials) > 0 }

// Validate tells what is wrong, all of it.
func (c Config) Validate() error {
	var errs []error
	bad := func(format string, args ...any) {
		errs = append(errs, kemi.Errorf(kemi.ErrInvalid, "snmp."+format, args...))
	}
	for _, k := range []struct {
		key          string
		v, low, high int64
		show         any
	}{
		{"interval", int64(c.Interval), int64(time.Second), int64(time.Hour), c.Interval},
		{"timeout", int64(c.Timeout), int64(10 * time.Millisecond), int64(time.Minute), c.Timeout},
		{"pollTimeout", int64(c.PollTimeout), int64(c.Timeout), int64(time.Hour), c.PollTimeout},
		{"retries", int64(c.Retries), 0, 10, c.Retries},
		{"workers", int64(c.Workers), 1, 1000, c.Workers},
		{"maxRepetitions", int64(c.MaxRepetitions), 1, 1000, c.MaxRepetitions},
		{"maxRows", int64(c.MaxRows), 1, 1_000_000, c.MaxRows},
	} {
		if k.v < k.low || k.v > k.high {
			bad("%s: %v: must be from %s to %s", k.key, k.show, shown(k.show, k.low), shown(k.show, k.high))
		}
	}
	for _, name := range c.Profiles {
		if _, ok := builtin[name]; !ok {
			bad("profiles: %q is not built in; there are %s", name, strings.Join(Builtin(), ", "))
		}
	}
	for name, x := range c.Credentials {
		if err := x.validate(); err != nil {
			bad("credentials.%s.%w", name, err)
		}
	}
	for i, s := range c.Discovery {
		if err := s.withDefaults().validate(c); err != nil {
			bad("discovery[%d].%w", i, err)
		}
	}
	return errors.Join(errs...)
}

func shown(like any, v int64) string {
	if _, ok := like.(time.Duration); ok {
		return time.Duration(v).String()
	}
	return fmt.Sprint(v)
}

func (c Credential) validate() error {
	one := func(field, file, env string) error {
		if (file == "") == (env == "") {
			return fmt.Errorf("%sFile, %sEnv: exactly one of them names the secret", field, field)
		}
		return nil
	}
	switch c.Version {
	case "2c":
		if c.User != "" || c.AuthFile+c.AuthEnv+c.PrivFile+c.PrivEnv != "" {
			return errors.New("user: belongs to version 3")
		}
		if err := one("community", c.CommunityFile, c.CommunityEnv); err != nil {
			return err
		}
	case "3":
		if c.User == "" {
			return errors.New("user: empty; version 3 needs a user")
		}
		if c.CommunityFile+c.CommunityEnv != "" {
			return errors.New("communityFile: belongs to version 2c")
		}
		if c.AuthFile+c.AuthEnv != "" {
			if err := one("auth", c.AuthFile, c.AuthEnv); err != nil {
				return err
			}
			if _, ok := authProtocols[c.AuthProtocol]; !ok {
				return fmt.Errorf("authProtocol: %q must be SHA, SHA224, SHA256, SHA384 or SHA512", c.AuthProtocol)
			}
		}
		if c.PrivFile+c.PrivEnv != "" {
			if err := one("priv", c.PrivFile, c.PrivEnv); err != nil {
				return err
			}
			if _, ok := privProtocols[c.PrivProtocol]; !ok {
				return fmt.Errorf("privProtocol: %q must be AES, AES192, AES256, AES192C or AES256C", c.PrivProtocol)
			}
			if c.AuthFile+c.AuthEnv == "" {
				return errors.New("authFile: encryption needs authentication")
			}
		}
	default:
		return fmt.Errorf("version: %q must be \"2c\" or \"3\"", c.Version)
	}
	_, err := prefixes(c.Networks)
	return err
}

func prefixes(list []string) ([]netip.Prefix, error) {
	var out []netip.Prefix
	for _, s := range list {
		p, err := netip.ParsePrefix(s)
		if err != nil {
			return nil, fmt.Errorf("networks: %q is not a network such as 10.0.0.0/24", s)
		}
		out = append(out, p.Masked())
	}
	return out, nil
}

// allows tells what keeps the credential from being used for a host of the project at the address, or nil.
func (c Credential) allows(project string, addr netip.Addr) error {
	if !slices.Contains(orDefault(c.Projects, []string{"default"}), project) {
		return kemi.Errorf(kemi.ErrDenied, "the credential is not for project %s (snmp.credentials.….projects)", project)
	}
	nets, err := prefixes(orDefault(c.Networks, privateNetworks))
	if err != nil {
		return err
	}
	if !slices.ContainsFunc(nets, func(p netip.Prefix) bool { return p.Contains(addr.Unmap()) }) {
		return kemi.Errorf(kemi.ErrDenied, "the credential may not be sent to %s (snmp.credentials.….networks)", addr)
	}
	return nil
}

func orDefault(list, standard []string) []string {
	if len(list) == 0 {
		return standard
	}
	return list
}

// secret reads a secret; its value is in no error.
func secret(what, file, env string) (string, error) {
	if env != "" {
		v := os.Getenv(env)
		if v == "" {
			return "", kemi.Errorf(kemi.ErrInvalid, "%s: the environment variable %s is empty", what, env)
		}
		return v, nil
	}
	b, err := os.ReadFile(file)
	if err != nil {
		return "", kemi.Errorf(kemi.ErrInvalid, "%s: %w", what, err)
	}
	if v := strings.TrimSpace(string(b)); v != "" {
		return v, nil
	}
	return "", kemi.Errorf(kemi.ErrInvalid, "%s: the file %s is empty", what, file)
}

func (s Sweep) withDefaults() Sweep {
	if s.Project == "" {
		s.Project = "default"
	}
	if s.Interval == 0 {
		s.Interval = time.Hour
	}
	if s.Rate == 0 {
		s.Rate = 50
	}
	if s.Port == 0 {
		s.Port = standardPort
	}
	return s
}

func (s Sweep) validate(c Config) error {
	nets, err := prefixes(s.Networks)
	if err != nil {
		return err
	}
	total := 0
	for _, p := range nets {
		bits := p.Addr().BitLen() - p.Bits()
		if bits > 16 {
			return fmt.Errorf("networks: %s: has more than %d addresses", p, maxSweepAddresses)
		}
		total += 1 << bits
	}
	switch {
	case total == 0:
		return errors.New("networks: none")
	case total > maxSweepAddresses:
		return fmt.Errorf("networks: %d addresses: at most %d", total, maxSweepAddresses)
	case s.Interval < 10*time.Second:
		return fmt.Errorf("interval: %s: must be at least 10s", s.Interval)
	case s.Rate < 1 || s.Rate > maxSweepRate:
		return fmt.Errorf("rate: %d: must be from 1 to %d", s.Rate, maxSweepRate)
	case s.Port < 1 || s.Port > 65535:
		return fmt.Errorf("port: %d: must be from 1 to 65535", s.Port)
	case len(s.Credentials) == 0:
		return errors.New("credentials: none")
	}
	for _, name := range s.Credentials {
		if _, ok := c.Credentials[name]; !ok {
			return fmt.Errorf("credentials: %q is not among snmp.credentials", name)
		}
	}
	return nil
}
