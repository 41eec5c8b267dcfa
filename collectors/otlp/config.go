package otlp

import (
	"errors"
	"fmt"
	"net"

	"github.com/prometheus/otlptranslator"

	"kemi"
	"kemi/collectors/listen"
)

// Config is what can be set about the receiver. The names and defaults of the translation are those of Prometheus' block otlp.
type Config struct {
	GRPC GRPCConfig `yaml:"grpc"`

	// TranslationStrategy is how names become those of Prometheus: UnderscoreEscapingWithSuffixes, UnderscoreEscapingWithoutSuffixes,
	// NoUTF8EscapingWithSuffixes or NoTranslation.
	TranslationStrategy string `yaml:"translationStrategy"`
	// PromoteResourceAttributes are attributes of the resource that become labels of all its series; the others are in target_info only.
	PromoteResourceAttributes    []string `yaml:"promoteResourceAttributes"`
	PromoteAllResourceAttributes bool     `yaml:"promoteAllResourceAttributes"`
	// HostLabel is the label that holds the resource's host.name, by which the inventory knows the host; "" = none.
	HostLabel string `yaml:"hostLabel"`
	// KeepIdentifyingResourceAttributes keeps service.name, service.namespace and service.instance.id in target_info.
	KeepIdentifyingResourceAttributes bool `yaml:"keepIdentifyingResourceAttributes"`
	// PromoteScopeMetadata makes the scope's name, version and attributes labels otel_scope_….
	PromoteScopeMetadata bool `yaml:"promoteScopeMetadata"`
	// ConvertHistogramsToNHCB makes explicit histograms native ones with custom buckets, one series each.
	ConvertHistogramsToNHCB bool `yaml:"convertHistogramsToNHCB"`

	// Delta is what becomes of delta temporality: cumulative (added up here), raw (stored as it comes, as a gauge) or refuse.
	Delta string `yaml:"delta"`
	// MaxDeltaStreams is how many series are added up at a time.
	MaxDeltaStreams int `yaml:"maxDeltaStreams"`
}

// GRPCConfig is the listener for gRPC. It is off without an address. Who sends says so as over HTTP, in the metadata `authorization`.
type GRPCConfig struct {
	Listen string     `yaml:"listen"`
	TLS    listen.TLS `yaml:"tls,omitempty"`
	// MaxMessageBytes is how large a message may be, unpacked; MaxRequests how many are read at a time.
	MaxMessageBytes int `yaml:"maxMessageBytes"`
	MaxRequests     int `yaml:"maxRequests"`
}

// What Delta may be.
const (
	deltaCumulative = "cumulative"
	deltaRaw        = "raw"
	deltaRefuse     = "refuse"
)

// DefaultConfig is the configuration that nobody has changed.
func DefaultConfig() Config {
	return Config{
		GRPC:                GRPCConfig{MaxMessageBytes: 16 << 20, MaxRequests: 8},
		TranslationStrategy: string(otlptranslator.UnderscoreEscapingWithSuffixes), HostLabel: "host", Delta: deltaCumulative, MaxDeltaStreams: 100_000,
	}
}

// Validate tells what is wrong, all of it.
func (c Config) Validate() error {
	var errs []error
	bad := func(format string, args ...any) { errs = append(errs, kemi.Errorf(kemi.ErrInvalid, format, args...)) }
	switch otlptranslator.TranslationStrategyOption(c.TranslationStrategy) {
	case otlptranslator.UnderscoreEscapingWithSuffixes, otlptranslator.UnderscoreEscapingWithoutSuffixes, otlptranslator.NoUTF8EscapingWithSuffixes, otlptranslator.NoTranslation:
	default:
		bad("translationStrategy: %q: must be UnderscoreEscapingWithSuffixes, UnderscoreEscapingWithoutSuffixes, NoUTF8EscapingWithSuffixes or NoTranslation", c.TranslationStrategy)
	}
	switch c.Delta {
	case deltaCumulative, deltaRaw, deltaRefuse:
	default:
		bad("delta: %q: must be cumulative, raw or refuse", c.Delta)
	}
	if c.MaxDeltaStreams <= 0 {
		bad("maxDeltaStreams: %d: must be more than 0", c.MaxDeltaStreams)
	}
	if g := c.GRPC; g.Listen != "" {
		if _, _, err := net.SplitHostPort(g.Listen); err != nil {
			bad("grpc.listen: %q: must be host:port", g.Listen)
		}
		if (g.TLS.Cert == "") != (g.TLS.Key == "") || g.TLS.ClientCA != "" && g.TLS.Cert == "" {
			bad("grpc.tls: needs both cert and key")
		}
	}
	if c.GRPC.MaxMessageBytes < 1<<10 {
		bad("grpc.maxMessageBytes: %d: must be at least 1024", c.GRPC.MaxMessageBytes)
	}
	if c.GRPC.MaxRequests <= 0 {
		bad("grpc.maxRequests: %d: must be more than 0", c.GRPC.MaxRequests)
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("otlp: %w", err)
	}
	return nil
}
