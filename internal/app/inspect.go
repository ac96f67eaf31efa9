package app

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/gl-k8s-integrator/gl-k8s-integrator/authn"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/authz"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/accounts"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/claims"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/config"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/kubename"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/rbacsync/syncer"
)

// inspectTimeout bounds an inspection, and accountTimeout what it asks of GitLab about one account.
const (
	inspectTimeout = 30 * time.Second
	userTimeout    = 5 * time.Second
)

// Inspect prints what the webhook would answer to a token, why, what helps, and what the token says. It reads GitLab's
// keys, and what it says of the account and the project, and reports whether the token would be authenticated. cfg may be nil: then
// only what the token says is printed. The token itself is never printed.
func Inspect(ctx context.Context, cfg *config.Config, token string, out io.Writer) (ok bool, err error) {
	var b bytes.Buffer
	proven := false
	if cfg == nil {
		b.WriteString("verdict: not judged; name the configuration of the webhook with --config\n")
	} else {
		ctx, cancel := context.WithTimeout(ctx, inspectTimeout)
		defer cancel()
		if ok, proven, err = judge(ctx, cfg, token, out, &b); err != nil {
			return false, err
		}
	}
	claims.Print(&b, token, proven)
	_, err = out.Write(b.Bytes())
	return ok, err
}

// judge writes what it finds to b; what is known before GitLab is asked about the account, to now at once.
func judge(ctx context.Context, cfg *config.Config, token string, now io.Writer, b *bytes.Buffer) (ok, proven bool, err error) {
	client, err := gitlabClient(cfg.GitLab)
	if err != nil {
		return false, false, err
	}
	quiet := slog.New(slog.DiscardHandler)
	// First by the token alone: only one that stands names an account that is worth a question to GitLab.
	alone, err := newAuthenticator(cfg, client, quiet, nil)
	if err != nil {
		return false, false, err
	}
	id, reviewErr := alone.Authenticate(ctx, token)
	if errors.As(reviewErr, new(*authn.UndecidedError)) && alone.KeyStatus().Keys == 0 {
		// GitLab is away. The webhook has the keys that were kept, if this machine reaches the cluster.
		if c, err := connect(cfg); err == nil && keysOf(cfg, c, alone, quiet).Restore(ctx) == nil && alone.KeyStatus().Keys > 0 {
			b.WriteString("note:    GitLab's keys can't be read; these are the ones kept in the cluster\n")
			id, reviewErr = alone.Authenticate(ctx, token)
		}
	}
	if reviewErr == nil {
		fmt.Fprintln(now, "token:   good by itself; asking GitLab about the account")
		who, err := knowing(ctx, cfg, client, token, id.Username, b)
		if err != nil {
			return false, false, err
		}
		auth, err := newAuthenticator(cfg, client, quiet, who)
		if err != nil {
			return false, false, err
		}
		if err := auth.RestoreKeys(alone.Keys()); err != nil {
			return false, false, err
		}
		id, reviewErr = auth.Authenticate(ctx, token)
		proven = true
	}
	reason, _ := authn.ReasonFor(authn.CodeOf(reviewErr))
	text := reason.Cause
	switch reason.Outcome {
	case authn.OutcomeOK:
		ok = true
		fmt.Fprintf(b, "verdict: authenticated as %s, uid %s, groups %s\n", id.Username, id.UID, strings.Join(id.Groups, ", "))
	case authn.OutcomeNotMine:
		b.WriteString("verdict: not a token of this GitLab\n")
	case authn.OutcomeDenied:
		b.WriteString("verdict: refused\n")
	case authn.OutcomeUndecided, authn.OutcomeMalformed:
		b.WriteString("verdict: can't be judged now\n")
		text = reviewErr.Error()
	}
	if denied, is := errors.AsType[*authn.DeniedError](reviewErr); is {
		proven = denied.Proven
		if denied.Detail != "" {
			text = denied.Detail
		}
		if _, said := claims.Unverified(token); denied.Code == authn.CodeWrongAudience && said != nil {
			text += "; this one is for " + claims.Pretty(said["aud"], "")
		}
	}
	fmt.Fprintf(b, "code:    %s\nreason:  %s\nhint:    %s\n", reason.Code, claims.Printable(text), reason.Hint)
	return ok, proven, nil
}

// about returns whom and what the webhook asks about for a token that stands: the account behind it, of a job that of who
// started it, if any, and the job's project.
func about(token, username string) []authz.SourceID {
	if id, ok := kubename.ParseUser(username); ok {
		return []authz.SourceID{authz.UserID(id)}
	}
	var ids []authz.SourceID
	if project, ok := kubename.ParseCIJob(username); ok {
		ids = append(ids, authz.ProjectID(project))
	}
	_, said := claims.Unverified(token)
	starter, _ := said["user_id"].(string)
	if id, ok := kubename.ParseUser(kubename.UserPrefix + starter); ok {
		ids = append(ids, authz.UserID(id))
	}
	return ids
}

// knowing returns what the webhook would know, as far as the token's review depends on it: from GitLab, or from what the last
// round left in the cluster while GitLab's API is away. What it does not know it says in b.
func knowing(ctx context.Context, cfg *config.Config, client *http.Client, token, username string, b *bytes.Buffer) (*accounts.Directory, error) {
	rules, err := accountRules(cfg)
	if err != nil {
		return nil, err
	}
	kept := sync.OnceValues(func() (*syncer.Stored, error) { return lastStored(ctx, cfg) })
	knowledge := accounts.NewKnowledge(rules, time.Now)
	users := accounts.New(knowledge, accounts.Options{StillServed: func(project int64) bool {
		st, err := kept()
		if err != nil {
			fmt.Fprintf(b, "note:    whether the project's jobs are still let in after its delivery was changed (ci.handover) is not known here: %s\n", claims.Printable(err.Error()))
			return false
		}
		return st.Jobs[project] != ""
	}})
	ids := about(token, username)
	s, err := learn(ctx, cfg, client, rules.Conditional(), ids)
	if err == nil {
		knowledge.Learn(s)
		return users, nil
	}
	if st, keptErr := kept(); keptErr == nil {
		knowledge.Learn(st.Snapshot)
		fmt.Fprintf(b, "note:    GitLab does not show all of it; this is what was read at %s: %s\n", st.Snapshot.Taken.UTC().Format(time.RFC3339), claims.Printable(err.Error()))
		return users, nil
	}
	knowledge.Learn(s)
	fmt.Fprintf(b, "note:    what GitLab says of %s is not known here: %s\n", listed(ids), claims.Printable(err.Error()))
	return users, nil
}

func listed(ids []authz.SourceID) string {
	names := make([]string, 0, len(ids))
	for _, id := range ids {
		names = append(names, id.String())
	}
	return strings.Join(names, " and ")
}

// lastStored returns what the last round left in the cluster.
func lastStored(ctx context.Context, cfg *config.Config) (*syncer.Stored, error) {
	c, err := connect(cfg)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, userTimeout)
	defer cancel()
	st, _, err := snapshotsOf(c).Load(ctx, "")
	if err == nil && st == nil {
		err = errors.New("no round has left anything in the cluster yet")
	}
	return st, err
}

// learn reads what GitLab says of these; of everybody, if there are conditions that depend on it. Beside an error there may be a
// part of it.
func learn(ctx context.Context, cfg *config.Config, client *http.Client, conditional bool, ids []authz.SourceID) (*authz.Snapshot, error) {
	reader, err := newReader(cfg, client, slog.New(slog.DiscardHandler))
	if err != nil {
		return nil, err
	}
	read := reader.Snapshot
	if !conditional {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, userTimeout)
		defer cancel()
		read = func(ctx context.Context) (*authz.Snapshot, error) { return reader.About(ctx, ids...) }
	}
	s, err := read(ctx)
	if err != nil {
		return nil, err
	}
	if s.MissingAll != "" {
		return s, errors.New(s.MissingAll)
	}
	for _, id := range ids {
		if why, unread := s.Missing[id]; unread {
			return s, errors.New(why)
		}
	}
	return s, nil
}
