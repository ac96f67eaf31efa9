package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"regexp"
	"strings"

	"github.com/spf13/cobra"

	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/app"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/config"
)

// maxTokenFile bounds what is read: the largest token that can be configured to be accepted is half of it.
const maxTokenFile = 1 << 20

// tokenLike matches what is a token rather than the name of a file: JWTs, and GitLab's own tokens by their prefix.
var tokenLike = regexp.MustCompile(`^(eyJ|gl[a-z]+-)|^[^/.]+\.[^/.]+\.[^/.]{20,}$`)

func tokenCommand(s streams) *cobra.Command {
	cmd := &cobra.Command{Use: "token", Short: "Look at tokens", Args: cobra.NoArgs}
	cmd.AddCommand(tokenInspectCommand(s))
	return cmd
}

func tokenInspectCommand(s streams) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "inspect [--config FILE] [FILE|-]",
		Short: "Show what the webhook would answer to a token, and why; exit 0: authenticated, 1: not",
		Long: "Reads one token from a file or standard input and prints the webhook's verdict, its reason code, what helps, and the\n" +
			"token's claims. Without --config only the claims. The token is never an argument: everybody on the machine can read those.",
		Args: cobra.MaximumNArgs(1),
	}
	path := cmd.Flags().String("config", "", "path of the configuration file")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		name := "-"
		if len(args) > 0 {
			name = args[0]
		}
		token, err := readToken(s.in, name)
		if err != nil {
			return err
		}
		var cfg *config.Config
		if *path != "" {
			if cfg, err = config.Load(*path); err != nil {
				return err
			}
		}
		ok, err := app.Inspect(cmd.Context(), cfg, token, s.out)
		if err == nil && !ok {
			return errNotAuthenticated
		}
		return err
	}
	return cmd
}

// readToken reads a token from the named file, or from in if that is "-". No error holds what was given as name if it
// may be a token.
func readToken(in io.Reader, name string) (string, error) {
	if tokenLike.MatchString(name) {
		return "", errors.New("this argument looks like a token: everybody on this machine can read arguments; give the token on standard input or in a file, and treat this one as leaked")
	}
	if name != "-" {
		f, err := os.Open(name)
		if err != nil {
			return "", fmt.Errorf("reading the token: %w", err)
		}
		defer func() { _ = f.Close() }()
		in = f
	}
	data, err := io.ReadAll(io.LimitReader(in, maxTokenFile+1))
	if err != nil {
		return "", fmt.Errorf("reading the token: %w", err)
	}
	if len(data) > maxTokenFile {
		return "", errors.New("reading the token: more than 1 MiB, is this the right file?")
	}
	token := strings.TrimSpace(string(data))
	if token == "" {
		return "", errors.New("reading the token: there is none")
	}
	return token, nil
}
