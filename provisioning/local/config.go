package local

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"time"
	"unicode/utf8"

	"golang.org/x/sys/unix"

	"kemi"
	"kemi/provisioning/autoscale"
	"kemi/provisioning/resource"
)

// Config is the block "local" of a group's driver.
type Config struct {
	// Command is the program and its arguments; no shell is between.
	Command []string          `json:"command"`
	Env     map[string]string `json:"env,omitempty"`
	// Dir is the working folder, by default the server's.
	Dir string `json:"dir,omitempty"`
	// StopSignal asks an instance to end; after StopTimeout it is killed.
	StopSignal  string             `json:"stopSignal"`
	StopTimeout autoscale.Duration `json:"stopTimeout"`
}

// The limits of a configuration.
const (
	maxArgs        = 256
	maxBytes       = 64 << 10 // of command and environment
	maxStopTimeout = 10 * time.Minute
)

const reserved = "KEMI_" // the markers by which instances are known

var envName = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_]*$`)

// parse reads a configuration with its defaults, and checks what does not depend on the machine.
func parse(b json.RawMessage) (Config, error) {
	c := Config{StopSignal: "SIGTERM", StopTimeout: autoscale.Duration(10 * time.Second)}
	const field = "spec.driver.local"
	if len(b) == 0 || string(b) == "null" {
		return c, kemi.Errorf(kemi.ErrInvalid, "%s: missing; for example {\"command\": [\"sleep\", \"600\"]}", field)
	}
	if err := resource.Decode(b, &c, field); err != nil {
		return c, err
	}
	bad := func(f, format string, args ...any) (Config, error) {
		return c, kemi.Errorf(kemi.ErrInvalid, "%s.%s: %s", field, f, fmt.Sprintf(format, args...))
	}
	if len(c.Command) == 0 || c.Command[0] == "" {
		return bad("command", "missing; a list of the program and its arguments, such as [\"sleep\", \"600\"]")
	}
	if len(c.Command) > maxArgs {
		return bad("command", "%d arguments, at most %d", len(c.Command), maxArgs)
	}
	size := 0
	for i, a := range c.Command {
		if size += len(a); strings.ContainsRune(a, 0) || !utf8.ValidString(a) {
			return bad(fmt.Sprintf("command[%d]", i), "must be UTF-8 without zero bytes")
		}
	}
	for k, v := range c.Env {
		size += len(k) + len(v)
		switch {
		case !envName.MatchString(k):
			return bad("env", "%.80q is no name of an environment variable", k)
		case strings.HasPrefix(k, reserved):
			return bad("env", "%.80q: names that begin with %s are the server's own", k, reserved)
		case strings.ContainsRune(v, 0) || !utf8.ValidString(v):
			return bad("env."+k, "must be UTF-8 without zero bytes")
		}
	}
	switch {
	case size > maxBytes:
		return bad("command", "%d bytes with env, at most %d", size, maxBytes)
	case c.Dir != "" && (!filepath.IsAbs(c.Dir) || strings.ContainsRune(c.Dir, 0)):
		return bad("dir", "%.200q must be an absolute path", c.Dir)
	case !stopSignals[c.StopSignal]:
		return bad("stopSignal", "%.40q must be one of SIGTERM, SIGINT, SIGQUIT, SIGHUP, SIGUSR1, SIGUSR2, SIGKILL", c.StopSignal)
	case c.StopTimeout < 0 || time.Duration(c.StopTimeout) > maxStopTimeout:
		return bad("stopTimeout", "%s must be from 0s to %s", time.Duration(c.StopTimeout), maxStopTimeout)
	}
	return c, nil
}

var stopSignals = map[string]bool{"SIGTERM": true, "SIGINT": true, "SIGQUIT": true, "SIGHUP": true, "SIGUSR1": true, "SIGUSR2": true, "SIGKILL": true}

func (c Config) signal() syscall.Signal { return unix.SignalNum(c.StopSignal) }

// Check is as autoscale.Checker has it: it also refuses a program and a folder that are not there.
func (d *Driver) Check(b json.RawMessage) (json.RawMessage, error) {
	c, err := parse(b)
	if err != nil {
		return nil, err
	}
	if c.Dir != "" {
		if fi, err := os.Stat(c.Dir); err != nil || !fi.IsDir() {
			return nil, kemi.Errorf(kemi.ErrInvalid, "spec.driver.local.dir: %q is no folder on this machine", c.Dir)
		}
	}
	program := c.Command[0]
	if strings.Contains(program, "/") && !filepath.IsAbs(program) {
		program = filepath.Join(c.Dir, program)
	}
	if _, err := exec.LookPath(program); err != nil {
		return nil, kemi.Errorf(kemi.ErrInvalid, "spec.driver.local.command[0]: %w", err)
	}
	return json.Marshal(c)
}

// Needs is as autoscale.Privileged has it.
func (d *Driver) Needs() kemi.Permission { return kemi.Admin }

// Redact is as autoscale.Redactor has it: values of the environment may be secrets.
func (d *Driver) Redact(b json.RawMessage) json.RawMessage {
	c, err := parse(b)
	if err != nil {
		return nil
	}
	for k := range c.Env {
		c.Env[k] = "<hidden>"
	}
	out, err := json.Marshal(c)
	if err != nil {
		return nil
	}
	return out
}

// digest names what an instance is started with; how it is stopped is no part of it.
func (c Config) digest() string {
	c.StopSignal, c.StopTimeout = "", 0
	b, _ := json.Marshal(c) //nolint:errchkjson // strings and a map of strings
	sum := sha256.Sum256(b)
	return hex.EncodeToString(sum[:8])
}

// environment is that of an instance.
func (c Config) environment(marks ...string) []string {
	env := marks
	for _, k := range []string{"PATH", "HOME", "USER", "LOGNAME", "SHELL", "LANG", "LC_ALL", "TZ", "TMPDIR"} {
		if _, own := c.Env[k]; own {
			continue
		}
		if v, ok := os.LookupEnv(k); ok {
			env = append(env, k+"="+v)
		}
	}
	for k, v := range c.Env {
		env = append(env, k+"="+v)
	}
	return env
}
