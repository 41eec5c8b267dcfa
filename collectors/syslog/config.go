package syslog

import (
	"fmt"
	"time"

	"kemi"
	"kemi/collectors/listen"
)

// Config is what can be set about the receiver.
type Config struct {
	listen.Config `yaml:",inline"`
	// TimeZone is where times are that name none, as those of RFC 3164: a name such as Asia/Seoul, or "" for this machine's.
	TimeZone string `yaml:"timeZone,omitempty"`
}

// DefaultConfig is off.
func DefaultConfig() Config {
	c := Config{Config: listen.DefaultConfig()}
	c.MaxLineBytes = 256 << 10
	return c
}

// Validate tells what is wrong, all of it.
func (c Config) Validate() error {
	if err := c.Config.Validate(); err != nil {
		return fmt.Errorf("syslog: %w", err)
	}
	_, err := c.zone()
	return err
}

func (c Config) zone() (*time.Location, error) {
	if c.TimeZone == "" {
		return time.Local, nil
	}
	z, err := time.LoadLocation(c.TimeZone)
	if err != nil {
		return nil, kemi.Errorf(kemi.ErrInvalid, "syslog: timeZone: %q: must be a name of the time zone database, such as Asia/Seoul or UTC: %w", c.TimeZone, err)
	}
	return z, nil
}
