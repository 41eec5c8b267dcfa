package main

import (
	"fmt"

	"github.com/spf13/cobra"

	"kemi/app"
)

func configCommand() *cobra.Command {
	c := &cobra.Command{Use: "config", Short: "Check or print a server's configuration"}
	var file string
	check := &cobra.Command{
		Use:   "check",
		Short: "Say what is wrong with a configuration file",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			conf, err := app.LoadConfig(file)
			if err == nil {
				err = conf.Validate()
			}
			if err == nil {
				fmt.Fprintln(cmd.OutOrStdout(), "the configuration is right")
			}
			return err
		},
	}
	print := &cobra.Command{
		Use:   "print",
		Short: "Print the effective configuration: the file over the defaults, secrets hidden",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			conf, err := app.LoadConfig(file)
			if err != nil {
				return err
			}
			return conf.Print(cmd.OutOrStdout())
		},
	}
	for _, sub := range []*cobra.Command{check, print} {
		sub.Flags().StringVar(&file, "config", "", "configuration file (YAML)")
		c.AddCommand(sub)
	}
	return c
}
