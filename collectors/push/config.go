package push

import (
	"errors"
	"time"

	"kemi"
)

// Config is what can be set about the receivers.
type Config struct {
	// MaxBodyBytes is how large a request may be as it is sent, MaxDecodedBytes how large once it is unpacked.
	MaxBodyBytes    int64 `yaml:"maxBodyBytes"`
	MaxDecodedBytes int64 `yaml:"maxDecodedBytes"`
	// MemoryBytes is what all requests under way may take together, packed and unpacked. Beyond it senders are told to come back.
	MemoryBytes int64 `yaml:"memoryBytes"`
	// QueueWait is how long a request waits for memory before it is told to come back.
	QueueWait time.Duration `yaml:"queueWait"`

	// MaxLabels is how many labels a series may have, its name included; MaxLabelNameBytes and MaxLabelValueBytes how long they may be.
	MaxLabels          int `yaml:"maxLabels"`
	MaxLabelNameBytes  int `yaml:"maxLabelNameBytes"`
	MaxLabelValueBytes int `yaml:"maxLabelValueBytes"`
	// AllowSpecialChars are characters that names in OpenTSDB's put may have beside letters, digits and -_./ (OpenTSDB's key is
	// tsd.core.tag.allow_specialchars). Senders that write to more than a TSD have the colon of host:port among their values.
	AllowSpecialChars string `yaml:"allowSpecialChars"`
	// MaxLineBytes is how long the body of a log record may be, and all its attributes together; MaxAttributes how many it may have.
	MaxLineBytes  int `yaml:"maxLineBytes"`
	MaxAttributes int `yaml:"maxAttributes"`
	// MaxPast and MaxFuture are how far from now the time of a sample or a log record may be.
	MaxPast   time.Duration `yaml:"maxPast"`
	MaxFuture time.Duration `yaml:"maxFuture"`
}

// DefaultConfig is the configuration that nobody has changed.
func DefaultConfig() Config {
	return Config{
		MaxBodyBytes: 32 << 20, MaxDecodedBytes: 64 << 20, MemoryBytes: 256 << 20, QueueWait: time.Second,
		MaxLabels: 64, MaxLabelNameBytes: 1 << 10, MaxLabelValueBytes: 16 << 10, AllowSpecialChars: ":",
		MaxLineBytes: 1 << 20, MaxAttributes: 512,
		MaxPast: 10 * 365 * 24 * time.Hour, MaxFuture: 24 * time.Hour,
	}
}

// Validate tells what is wrong, all of it.
func (c Config) Validate() error {
	var errs []error
	for _, k := range []struct {
		key string
		v   int64
	}{
		{"maxBodyBytes", c.MaxBodyBytes}, {"maxDecodedBytes", c.MaxDecodedBytes}, {"memoryBytes", c.MemoryBytes},
		{"maxLabels", int64(c.MaxLabels)}, {"maxLabelNameBytes", int64(c.MaxLabelNameBytes)}, {"maxLabelValueBytes", int64(c.MaxLabelValueBytes)},
		{"maxLineBytes", int64(c.MaxLineBytes)}, {"maxAttributes", int64(c.MaxAttributes)},
		{"maxPast", int64(c.MaxPast)}, {"maxFuture", int64(c.MaxFuture)},
	} {
		if k.v <= 0 {
			errs = append(errs, kemi.Errorf(kemi.ErrInvalid, "ingest.%s: %d: must be more than 0", k.key, k.v))
		}
	}
	if c.QueueWait < 0 {
		errs = append(errs, kemi.Errorf(kemi.ErrInvalid, "ingest.queueWait: %s: must not be negative", c.QueueWait))
	}
	if c.MaxBodyBytes > 0 && c.MemoryBytes > 0 && c.MemoryBytes < c.MaxBodyBytes+c.MaxDecodedBytes {
		errs = append(errs, kemi.Errorf(kemi.ErrInvalid, "ingest.memoryBytes: %d: must hold one request, at least maxBodyBytes + maxDecodedBytes = %d",
			c.MemoryBytes, c.MaxBodyBytes+c.MaxDecodedBytes))
	}
	return errors.Join(errs...)
}
