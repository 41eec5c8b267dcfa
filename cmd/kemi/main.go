// Command kemi is the whole of KEMI: server, agent and the tools that talk to a server.
//
// Exit codes: 0 done, 1 failed, 2 wrong usage or configuration, 3 not allowed or not known who, 4 not found, 5 not available now (trying
// again may help), 130 interrupted.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"

	"kemi"
)

func main() {
	// The signals stay caught until the process has ended: timeout(1) sends its signal twice, and a second one that found no handler
	// while the program ends would make an orderly end look like a death.
	ctx, _ := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	root := &cobra.Command{
		Use:           "kemi",
		Short:         "Monitoring first: metrics, logs, alerts and autoscaling in one binary",
		SilenceUsage:  true,
		SilenceErrors: true,
	}
	root.SetFlagErrorFunc(func(_ *cobra.Command, err error) error { return kemi.Errorf(kemi.ErrInvalid, "%w", err) })
	root.AddCommand(serverCommand(), agentCommand(), tailCommand(), logsCommand(), queryCommand(), putCommand(), configCommand(), versionCommand())
	if err := root.ExecuteContext(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "kemi:", err)
		os.Exit(exitCode(ctx, err))
	}
}

// exitCode is what the kind of err is told as to the shell.
func exitCode(ctx context.Context, err error) int {
	switch {
	case ctx.Err() != nil && errors.Is(err, context.Canceled):
		return 130
	case errors.Is(err, kemi.ErrInvalid), errors.Is(err, kemi.ErrTooLarge):
		return 2
	case errors.Is(err, kemi.ErrUnauthorized), errors.Is(err, kemi.ErrDenied):
		return 3
	case errors.Is(err, kemi.ErrNotFound):
		return 4
	case errors.Is(err, kemi.ErrUnavailable), errors.Is(err, kemi.ErrLimited):
		return 5
	}
	return 1
}
