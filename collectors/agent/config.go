package agent

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net/url"
	"os"
	"regexp"
	"time"

	"go.yaml.in/yaml/v3"

	"kemi"
	"kemi/collectors/tail"
	"kemi/pipeline/codec"
	"kemi/pipeline/transform"
)

// Config is the configuration of an agent.
type Config struct {
	// Server is the address of the server, for example http://127.0.0.1:7070. Not needed with a Sink in the same process.
	Server string `yaml:"server"`
	// TokenFile holds the token that the agent shows. It is read again when the server refuses it.
	TokenFile string    `yaml:"tokenFile"`
	TLS       TLSConfig `yaml:"tls"`
	// Project is where everything goes; empty: the token's own.
	Project string `yaml:"project"`

	// Hostname is the label host of everything; the machine's own name if empty.
	Hostname string `yaml:"hostname"`
	// Service, Owner and Zone are what the host says of itself when it registers. What the inventory says goes before.
	Service string `yaml:"service"`
	Owner   string `yaml:"owner"`
	Zone    string `yaml:"zone"`
	// Labels are labels of everything that this agent sends.
	Labels map[string]string `yaml:"labels"`

	// Interval is the time between two measurements.
	Interval time.Duration `yaml:"interval"`
	Host     HostConfig    `yaml:"host"`
	// Logs are the files to follow.
	Logs []tail.Config `yaml:"logs"`
	// Pipelines change log records before they are spooled.
	Pipelines []transform.Pipeline `yaml:"pipelines,omitempty"`
	// Journal follows the journal of systemd, if the machine has one.
	Journal bool `yaml:"journal"`
	// JournalSince is how far back the journal is read at the first start.
	JournalSince time.Duration `yaml:"journalSince"`

	Spool SpoolConfig `yaml:"spool"`
}

// HostConfig says where the machine's files are, for an agent in a container that has them mounted elsewhere.
type HostConfig struct {
	Enabled bool   `yaml:"enabled"`
	Proc    string `yaml:"proc"`
	Sys     string `yaml:"sys"`
	Root    string `yaml:"root"`
}

// TLSConfig is about connections to the server.
type TLSConfig struct {
	CA   string `yaml:"ca"`   // file of the certificates that sign the server's; the system's if empty
	Cert string `yaml:"cert"` // file of the agent's own certificate, with Key
	Key  string `yaml:"key"`
}

// SpoolConfig is about what waits to be sent.
type SpoolConfig struct {
	// Dir is the folder; one agent at a time has it.
	Dir string `yaml:"dir"`
	// MaxBytes bounds it, half for metrics and half for logs.
	MaxBytes int64 `yaml:"maxBytes"`
}

// DefaultConfig is what holds where nothing is said.
func DefaultConfig() Config {
	return Config{
		Server: "http://127.0.0.1:7070", Interval: 10 * time.Second, Host: HostConfig{Enabled: true, Proc: "/proc", Sys: "/sys", Root: "/"},
		Journal: true, JournalSince: time.Hour, Spool: SpoolConfig{Dir: "/var/lib/kemi-agent", MaxBytes: 512 << 20},
	}
}

// LoadConfig reads a file over into, which is a *Config or has one inline; an unknown key is an error with its line. An empty name means no file.
func LoadConfig(name string, into any) error {
	if name == "" {
		return nil
	}
	b, err := os.ReadFile(name)
	if err != nil {
		return kemi.Errorf(kemi.ErrInvalid, "configuration: %w", err)
	}
	d := yaml.NewDecoder(bytes.NewReader(b))
	d.KnownFields(true)
	if err := d.Decode(into); err != nil && !errors.Is(err, io.EOF) {
		return kemi.Errorf(kemi.ErrInvalid, "configuration %s: %w", name, err)
	}
	return nil
}

const (
	minInterval   = time.Second
	maxInterval   = time.Hour
	minSpoolBytes = 1 << 20
	maxLabels     = 32
)

// labelName is what the stores take as a name everywhere.
var labelName = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_.-]*$`)

// Validate tells what is wrong, all of it. Server is looked at only if remote.
func (c Config) Validate(remote bool) error {
	var errs []error
	bad := func(format string, args ...any) { errs = append(errs, kemi.Errorf(kemi.ErrInvalid, format, args...)) }
	if remote {
		u, err := url.Parse(c.Server)
		if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" || u.RawQuery != "" || u.Fragment != "" {
			bad("server: %q: must be an address such as http://127.0.0.1:7070", c.Server)
		}
		if (c.TLS.Cert == "") != (c.TLS.Key == "") {
			bad("tls: cert %q and key %q: name both or neither", c.TLS.Cert, c.TLS.Key)
		}
	}
	if c.Interval < minInterval || c.Interval > maxInterval {
		bad("interval: %s: must be %s to %s", c.Interval, minInterval, maxInterval)
	}
	if err := transform.Validate(c.Pipelines); err != nil {
		bad("pipelines: %w", err)
	}
	for _, p := range c.Pipelines {
		for i, s := range p.Steps {
			if s.Route != nil && s.Route.Project != "" {
				bad("pipelines: %s: step %d: route: project %q: an agent sends everything to its own project; use the server's ingest.pipelines", p.Name, i+1, s.Route.Project)
			}
		}
	}
	if c.JournalSince < 0 {
		bad("journalSince: %s: must not be negative", c.JournalSince)
	}
	if c.Spool.Dir == "" {
		bad("spool.dir: empty; name a folder")
	}
	if c.Spool.MaxBytes < minSpoolBytes {
		bad("spool.maxBytes: %d: must be at least %d", c.Spool.MaxBytes, minSpoolBytes)
	}
	if len(c.Labels) > maxLabels {
		bad("labels: %d of them: at most %d", len(c.Labels), maxLabels)
	}
	for name, value := range c.Labels {
		if !labelName.MatchString(name) || value == "" {
			bad("labels: %q: %q: a name has letters, digits, dots, - and _, and a value is not empty", name, value)
		}
		if name == codec.HostLabel {
			bad("labels: %s: is the host's name; set hostname", name)
		}
	}
	for i, l := range c.Logs {
		if err := l.Validate(); err != nil {
			errs = append(errs, fmt.Errorf("logs[%d].%w", i, err))
		}
	}
	return errors.Join(errs...)
}
