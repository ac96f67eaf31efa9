package kubectlgitlab

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"os/exec"
	"regexp"
	"strings"

	"github.com/spf13/cobra"

	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/kubename"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/webapi"
)

func ciCommand(o *options) *cobra.Command {
	cmd := &cobra.Command{
		Use:               "ci [--project PATH|NUMBER]",
		Short:             "What the CI jobs of your project get: the delivery, for which environment, good until when",
		Args:              cobra.NoArgs,
		ValidArgsFunction: cobra.NoFileCompletions,
	}
	project := cmd.Flags().String("project", "", "path or number in GitLab, instead of the project of the git remote")
	remote := cmd.Flags().String("remote", "origin", "git remote to take the project from")
	noFiles(cmd, "project", "remote")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		s, err := o.open("")
		if err != nil {
			return err
		}
		name := *project
		if name == "" {
			if name, err = projectOfRemote(cmd.Context(), s, *remote); err != nil {
				return fmt.Errorf("%w. Name the project with --project", err)
			}
		}
		var ci webapi.CI
		err = s.server(cmd.Context(), webapi.PathCI, url.Values{"project": {name}}, &ci)
		var refused *refusal
		switch {
		case err == nil:
			return printCI(s, ci)
		case errors.As(err, &refused) && refused.status < http.StatusInternalServerError && refused.status != http.StatusUnauthorized:
			return fmt.Errorf("project %s: %w", name, refused)
		case !errors.Is(err, errNoServer):
			o.note("note: %v. What follows is what the cluster alone says", err)
		}
		return printCIByCluster(cmd.Context(), s, name)
	}
	return cmd
}

// printCI says what the jobs of a project get.
func printCI(s *session, ci webapi.CI) error {
	good := ""
	if ci.Good != nil {
		good = moment(*ci.Good, s.o.process.Now()) + "; they are replaced before"
	}
	last := cmp.Or(ci.Why, ci.Outcome)
	if ci.At != nil {
		last += " (" + moment(*ci.At, s.o.process.Now()) + ")"
	}
	return table(s.o.process.Out, [][]string{
		{"project", fmt.Sprintf("%s number %d", ci.Path, ci.Project)},
		{"namespace", ci.Namespace},
		{"delivery", ci.Delivery},
		{"environment", ci.Environment},
		{"good until", good},
		{"state", last},
	})
}

// printCIByCluster says what the cluster shows of a project: its namespace, and whether the ServiceAccount for its jobs is there.
func printCIByCluster(ctx context.Context, s *session, project string) error {
	rows, err := s.namespacesByCluster(ctx)
	if err != nil {
		return err
	}
	for _, n := range rows {
		if n.Path != project && n.Source != "project/"+project {
			continue
		}
		state := "there"
		var sa struct{}
		err := s.get(ctx, "api/v1/namespaces/"+n.Name+"/serviceaccounts/"+kubename.CIServiceAccount, nil, &sa)
		var refused *refusal
		switch {
		case errors.As(err, &refused) && refused.status == http.StatusNotFound:
			state = "not there: the project's jobs get no token of it"
		case err != nil:
			state = fmt.Sprintf("not known: %v", err)
		}
		s.o.note("note: which environment and until when only the integrator's server knows, and %s", whyNoServer(s))
		return table(s.o.process.Out, [][]string{
			{"project", n.Path}, {"namespace", n.Name}, {"ServiceAccount " + kubename.CIServiceAccount, state},
		})
	}
	return fmt.Errorf("no namespace of yours belongs to project %s, as far as the cluster says; which credentials its jobs get only the integrator's server knows, and %s", project, whyNoServer(s))
}

func whyNoServer(s *session) string {
	if s.extension.Server == "" {
		return "your kubeconfig names none (get a new one from the page of your cluster)"
	}
	return s.extension.Server + " was not asked or gave no answer"
}

// scpLike is how git writes an address for ssh: [user@]host:path.
var scpLike = regexp.MustCompile(`^(?:[^@/:]+@)?([^/:]+):([^/].*)$`)

// projectOfRemote returns the path in GitLab of the repository in the current folder.
func projectOfRemote(ctx context.Context, s *session, remote string) (string, error) {
	out, err := exec.CommandContext(ctx, "git", "remote", "get-url", "--", remote).Output()
	if err != nil {
		if exit, ok := errors.AsType[*exec.ExitError](err); ok {
			return "", fmt.Errorf("asking git for the remote %s: %s", remote, strings.TrimSpace(string(exit.Stderr)))
		}
		return "", fmt.Errorf("asking git for the remote %s: %w", remote, err)
	}
	return projectOf(strings.TrimSpace(string(out)), s.issuer)
}

// projectOf returns the path in GitLab of the repository at an address that git uses. issuer is GitLab's URL; "" for any.
func projectOf(address, issuer string) (string, error) {
	var host, path, prefix string
	if m := scpLike.FindStringSubmatch(address); m != nil && !strings.Contains(address, "://") {
		host, path = m[1], m[2]
	} else {
		u, err := url.Parse(address)
		if err != nil || u.Host == "" {
			return "", errors.New("the git remote is no address of GitLab") // the text could have a password
		}
		host, path = u.Hostname(), u.Path
		if gitlab, err := url.Parse(issuer); err == nil && strings.HasPrefix(u.Scheme, "http") {
			prefix = strings.TrimSuffix(gitlab.Path, "/") // a GitLab below a path, as in https://example.com/gitlab
		}
	}
	if gitlab, err := url.Parse(issuer); err == nil && issuer != "" && !strings.EqualFold(gitlab.Hostname(), host) {
		return "", fmt.Errorf("the git remote is at %s, not at %s", host, gitlab.Host)
	}
	path = strings.TrimSuffix(strings.Trim(strings.TrimPrefix(path, prefix), "/"), ".git")
	if !strings.Contains(path, "/") {
		return "", fmt.Errorf("the git remote is %q on %s, which is no path of a project", path, host)
	}
	return path, nil
}
