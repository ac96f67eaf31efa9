package kubectlgitlab

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"golang.org/x/term"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"

	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/kubeconfig"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/kubename"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/webapi"
)

// What kubelogin is given on a machine without a browser: the person opens GitLab elsewhere and types the code that the
// address of the last page has. By its source, a present GitLab fails where it should show a code out of band, and
// kubelogin v1.36.3 does not find GitLab's device grant.
const keyboardGrant = "authcode-keyboard"

func loginCommand(o *options) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "login [--headless|--browser]",
		Short: "Log in to GitLab by the credential plug-in of your kubeconfig, if you are not yet",
		Long: "Logs in as the next kubectl command would, by the credential plug-in of your kubeconfig (kubelogin), which keeps the token.\n\n" +
			"On a machine without a browser use --headless, once: it changes how the user of your context logs in. Open the address that is\n" +
			"printed in a browser elsewhere and log in. The browser ends at a page on localhost that it can't open: its address has code=…, which\n" +
			"you type at the prompt. --browser changes it back.",
		Args:              cobra.NoArgs,
		ValidArgsFunction: cobra.NoFileCompletions,
	}
	headless := cmd.Flags().Bool("headless", false, "from now on log in without a browser on this machine")
	browser := cmd.Flags().Bool("browser", false, "from now on log in by the browser of this machine")
	cmd.MarkFlagsMutuallyExclusive("headless", "browser")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		s, err := o.openKubelogin()
		if err != nil {
			return err
		}
		if *headless || *browser {
			if err := setGrant(cmd.Context(), s, *headless); err != nil {
				return err
			}
			if s, err = o.openKubelogin(); err != nil {
				return err
			}
		}
		if grant, _ := s.execFlag(grantFlag); grant == keyboardGrant && !terminal(o.process.In) {
			return errors.New("a code has to be typed: run this in a terminal")
		}
		r, err := s.review(cmd.Context())
		if err != nil {
			return err
		}
		who := strings.Join(r.Extra[kubename.ExtraUsername], ", ")
		if who != "" {
			who = ", " + who + " in GitLab"
		}
		fmt.Fprintf(o.process.Out, "logged in to %s as %s%s\n", s.context.Cluster, r.Username, who)
		if until := tokenEnd(s, webapi.Identity{}); until != "" {
			fmt.Fprintf(o.process.Out, "until %s\n", until)
		}
		return nil
	}
	return cmd
}

// terminal reports whether somebody can type into in.
func terminal(in io.Reader) bool {
	f, ok := in.(*os.File)
	return ok && term.IsTerminal(int(f.Fd()))
}

// openKubelogin is open for a context whose user logs in by kubelogin.
func (o *options) openKubelogin() (*session, error) {
	s, err := o.open("")
	if err != nil {
		return nil, err
	}
	if s.config.ExecProvider == nil || !slices.Contains(s.config.ExecProvider.Args, getToken) {
		return nil, fmt.Errorf("user %q of context %q does not log in by kubelogin: get your kubeconfig from the page of your cluster, or from its administrators", s.context.AuthInfo, s.name)
	}
	return s, nil
}

// setGrant changes how the user of the context logs in.
func setGrant(ctx context.Context, s *session, headless bool) error {
	return s.o.change(ctx, func(have files) ([]string, error) {
		home, ok := have.with(func(c *clientcmdapi.Config) bool { return c.AuthInfos[s.context.AuthInfo] != nil })
		if !ok || home.config.AuthInfos[s.context.AuthInfo].Exec == nil {
			return nil, fmt.Errorf("user %q is not in the kubeconfig any more", s.context.AuthInfo)
		}
		e := home.config.AuthInfos[s.context.AuthInfo].Exec
		args := grantArgs(e.Args, headless)
		if slices.Equal(args, e.Args) {
			return nil, nil
		}
		e.Args = args
		return []string{home.path}, nil
	})
}

// grantArgs returns kubelogin's arguments for a login with or without a browser on this machine.
func grantArgs(args []string, headless bool) []string {
	var out []string
	for i := 0; i < len(args); i++ {
		name, _, joined := strings.Cut(args[i], "=")
		switch {
		case name != grantFlag && name != redirectFlag:
			out = append(out, args[i])
		case !joined:
			i++ // its value
		}
	}
	if headless {
		out = append(out, grantFlag+"="+keyboardGrant, redirectFlag+"="+kubeconfig.KeyboardRedirect)
	}
	return out
}

func logoutCommand(o *options) *cobra.Command {
	return &cobra.Command{
		Use:   "logout",
		Short: "Delete the tokens that kubelogin keeps, for all clusters",
		Long: "Runs kubelogin's clean, which deletes all tokens in its folder, those of other clusters too. A token that was fetched before stays\n" +
			"good until it ends. Sign out of GitLab in the browser, too: else the next login is yours again without a question.",
		Args:              cobra.NoArgs,
		ValidArgsFunction: cobra.NoFileCompletions,
		RunE: func(cmd *cobra.Command, _ []string) error {
			s, err := o.openKubelogin()
			if err != nil {
				return err
			}
			if err := cleanTokens(cmd.Context(), s); err != nil {
				return err
			}
			fmt.Fprintln(o.process.Out, "logged out on this machine, of all clusters. Sign out of GitLab in the browser, too")
			return nil
		},
	}
}

// cleanTokens runs kubelogin's clean as the kubeconfig runs its get-token.
func cleanTokens(ctx context.Context, s *session) error {
	e := s.config.ExecProvider
	args := append(slices.Clone(e.Args[:slices.Index(e.Args, getToken)]), "clean")
	folder, named := s.execFlag(cacheFlag)
	if named {
		if err := onlyTokens(folder); err != nil {
			return err
		}
		args = append(args, cacheFlag+"="+folder)
	}
	cmd := exec.CommandContext(ctx, e.Command, args...)
	cmd.Env = os.Environ()
	for _, v := range e.Env {
		cmd.Env = append(cmd.Env, v.Name+"="+v.Value)
	}
	cmd.Stdout, cmd.Stderr = s.o.process.Err, s.o.process.Err
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("deleting tokens by %s %s: %w", e.Command, strings.Join(args, " "), err)
	}
	return nil
}

// tokenFile is what kubelogin v1.36.3 names the files of its cache and their locks.
var tokenFile = regexp.MustCompile(`^[0-9a-f]{64}(\.lock)?$`)

// onlyTokens refuses a folder with anything else in it: kubelogin's clean would remove that, too.
func onlyTokens(folder string) error {
	path := folder
	if rest, ok := strings.CutPrefix(path, "~"); ok && (rest == "" || os.IsPathSeparator(rest[0])) {
		home, err := os.UserHomeDir()
		if err != nil {
			return fmt.Errorf("finding %s: %w", folder, err)
		}
		path = filepath.Join(home, rest)
	}
	entries, err := os.ReadDir(path)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("looking for tokens: %w", err)
	}
	for _, e := range entries {
		if !tokenFile.MatchString(e.Name()) {
			return fmt.Errorf("%s has other files than kubelogin's tokens (%s), and its clean would delete the whole folder: delete the tokens by hand, and give %s a folder of its own", folder, e.Name(), cacheFlag)
		}
	}
	return nil
}
