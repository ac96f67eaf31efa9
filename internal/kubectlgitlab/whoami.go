package kubectlgitlab

import (
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/kubename"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/webapi"
)

func whoamiCommand(o *options) *cobra.Command {
	return &cobra.Command{
		Use:               "whoami",
		Short:             "Who you are to the cluster, why, and until when",
		Args:              cobra.NoArgs,
		ValidArgsFunction: cobra.NoFileCompletions,
		RunE: func(cmd *cobra.Command, _ []string) error {
			s, err := o.open("")
			if err != nil {
				return err
			}
			r, err := s.review(cmd.Context())
			if err != nil {
				return err
			}
			var known webapi.Identity
			s.askServer(cmd.Context(), webapi.PathWhoAmI, nil, &known)
			return table(o.process.Out, identityOf(s, r, known))
		},
	}
}

// identityOf says who somebody is. known is what our server adds; its zero value: nothing.
func identityOf(s *session, r review, known webapi.Identity) [][]string {
	account := strings.Join(r.Extra[kubename.ExtraUsername], ", ")
	id, person := kubename.ParseUser(r.Username)
	if known.Username != "" {
		account = known.Username
	}
	if known.Name != "" && known.Name != account {
		account += " (" + known.Name + ")"
	}
	if person {
		account = strings.TrimSpace(account + " number " + strconv.FormatInt(id, 10))
	}
	rows := [][]string{
		{"cluster", s.context.Cluster + ", " + s.config.Host},
		{"user", r.Username},
		{"in GitLab", account},
	}
	if known.Admin {
		rows = append(rows, []string{"", "an administrator of GitLab"})
	}
	rows = append(rows,
		[]string{"groups", strings.Join(r.Groups, ", ")},
		[]string{"because", because(s, person)},
		[]string{"until", tokenEnd(s, known)},
		[]string{"namespace", s.namespace},
	)
	return rows
}

// because says what makes kube-apiserver believe it.
func because(s *session, person bool) string {
	from := fmt.Sprintf("context %q, user %q of your kubeconfig", s.name, s.context.AuthInfo)
	switch {
	case s.config.Impersonate.UserName != "":
		return from + ", which impersonates " + s.config.Impersonate.UserName
	case s.config.ExecProvider != nil && person && s.issuer != "":
		return fmt.Sprintf("%s logged you in at %s (%s)", s.config.ExecProvider.Command, s.issuer, from)
	case s.config.ExecProvider != nil:
		return fmt.Sprintf("%s gave a credential (%s)", s.config.ExecProvider.Command, from)
	case s.config.CertFile != "" || len(s.config.CertData) > 0:
		return "a client certificate (" + from + ")"
	case s.config.BearerToken != "" || s.config.BearerTokenFile != "":
		return "a token in the kubeconfig (" + from + ")"
	}
	return from
}

// tokenEnd says when the token ends, and what is then.
func tokenEnd(s *session, known webapi.Identity) string {
	var end time.Time
	switch c := s.seen.Load(); {
	case c != nil && c.Expires > 0:
		end = time.Unix(c.Expires, 0)
	case known.Until != nil:
		end = *known.Until
	default:
		return ""
	}
	then := "then this credential is over"
	if s.config.ExecProvider != nil {
		then = "then the next command gets a new token, without a question while GitLab lets you"
	}
	return moment(end, s.o.process.Now()) + "; " + then
}
