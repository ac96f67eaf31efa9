package authn

import (
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/kubename"
)

// userIdentity accepts the claims of a person's token. Only sub counts: names are missing in older GitLab and can
// be taken over in all.
func (g *GitLab) userIdentity(c *claims, expiry time.Time) (Identity, error) {
	// A job's author can ask for the audience of people; the presence of any of these claims, even null, gives
	// such a token away (GitLab leaves absent claims out of a person's token).
	for _, mark := range []text{c.JobID, c.PipelineID, c.PipelineSource, c.RunnerID, c.UserID, c.UserLogin, c.ProjectID, c.JobProjectID, c.RefProtected} {
		if mark.present {
			return Identity{}, denied(CodeUserIsCIToken)
		}
	}
	id, ok := number(c.Subject)
	if !ok {
		return Identity{}, denied(CodeUserSubject)
	}
	if code := g.userProblem(id); code != "" {
		return Identity{}, &DeniedError{Code: code, Username: kubename.User(id)}
	}
	if g.cfg.Admitted != nil {
		switch admitted, known := g.cfg.Admitted(id); {
		case !known:
			return Identity{}, &UndecidedError{Code: CodeAdmissionUnknown}
		case !admitted:
			return Identity{}, &DeniedError{Code: CodeUserNotAdmitted, Username: kubename.User(id)}
		}
	}
	e := extra{}
	e.add(kubename.ExtraUsername, c.PreferredUsername)
	if len(e) == 0 {
		e.add(kubename.ExtraUsername, c.Nickname)
	}
	return Identity{
		Username: kubename.User(id),
		UID:      strconv.FormatInt(id, 10),
		Groups:   []string{kubename.GroupUsers},
		Extra:    e,
		Expiry:   expiry,
	}, nil
}

// ciIdentity accepts the claims of a CI job's token. The job is the project's, never the person's who started it:
// the code it runs is not that person's.
func (g *GitLab) ciIdentity(now time.Time, c *claims, expiry time.Time) (Identity, error) {
	if _, isUser := number(c.Subject); isUser && !c.JobID.present {
		return Identity{}, denied(CodeCIIsUserToken)
	}
	for _, must := range []text{c.Subject, c.JobID, c.PipelineID, c.ProjectID, c.RefType, c.RefProtected, c.ID} {
		if !must.valid || must.s == "" {
			return Identity{}, denied(CodeCIMissingClaim)
		}
	}
	if !c.NotBefore.present {
		return Identity{}, denied(CodeCIMissingClaim)
	}
	if _, isUser := number(c.Subject); isUser {
		return Identity{}, denied(CodeCIIsUserToken)
	}
	project, ok := number(c.ProjectID)
	if !ok {
		return Identity{}, denied(CodeCIMalformedClaim)
	}
	for _, id := range []text{c.JobID, c.PipelineID} {
		if _, ok := number(id); !ok {
			return Identity{}, denied(CodeCIMalformedClaim)
		}
	}
	if err := g.ciProblem(now, c, project); err != nil {
		err.Username = kubename.CIJob(project)
		return Identity{}, err
	}
	switch g.cfg.CIProject(project) {
	case ProjectServed:
	case ProjectNotServed:
		return Identity{}, &DeniedError{Code: CodeCIProjectNotServed, Username: kubename.CIJob(project)}
	case ProjectOtherDelivery:
		return Identity{}, &DeniedError{Code: CodeCIOtherDelivery, Username: kubename.CIJob(project)}
	case ProjectUnread:
		fallthrough
	default:
		return Identity{}, &UndecidedError{Code: CodeCIProjectsUnread}
	}
	e := extra{}
	e.add(kubename.ExtraProjectID, c.ProjectID)
	e.add(kubename.ExtraProject, c.ProjectPath)
	e.add(kubename.ExtraPipeline, c.PipelineID)
	e.add(kubename.ExtraJob, c.JobID)
	e.add(kubename.ExtraRef, c.Ref)
	e.add(kubename.ExtraEnv, c.Environment)
	e.add(kubename.ExtraUsername, c.UserLogin)
	return Identity{
		Username: kubename.CIJob(project),
		UID:      strconv.FormatInt(project, 10),
		Groups:   []string{kubename.GroupCI},
		Extra:    e,
		Expiry:   expiry,
	}, nil
}

// ciProblem holds the conditions under which a job of the project may deploy.
func (g *GitLab) ciProblem(now time.Time, c *claims, project int64) *DeniedError {
	switch {
	// project_id names the SOURCE project. For a merge request from a fork the job runs elsewhere (GitLab 18.4
	// says where: job_project_id), or, without that claim, can't be told apart from the parent's own jobs
	// (GitLab issues 548165, 561735, 563038).
	case c.JobProjectID.present && c.JobProjectID != c.ProjectID:
		return denied(CodeCIForkMergeRequest)
	case !c.JobProjectID.present && (!c.PipelineSource.valid || c.PipelineSource.s == ""):
		return denied(CodeCIMissingClaim)
	case !c.JobProjectID.present && c.PipelineSource.s == "merge_request_event":
		return denied(CodeCIForkMergeRequest)
	case !c.Environment.valid || c.Environment.s == "":
		return denied(CodeCINoEnvironment)
	case !slices.Contains(g.cfg.Environments, c.Environment.s):
		return denied(CodeCIWrongEnvironment)
	// A string in GitLab's tokens. An environment name is free text for everybody who can push a branch; only a
	// protected ref says that somebody with the right to it let this code run.
	case c.RefProtected.s != "true" && !g.cfg.UnprotectedProjects[project]:
		return denied(CodeCIRefUnprotected)
	case c.IssuedAt.t.Before(now.Add(-g.cfg.MaxCIAge - g.cfg.Leeway)):
		return denied(CodeCITokenTooOld)
	}
	// user_id is empty for a job without a user.
	if user, ok := number(c.UserID); ok {
		if code := g.userProblem(user); code != "" && code != CodeUserNotHuman {
			return denied(CodeCIUserNotActive)
		}
	}
	return nil
}

// userProblem returns why a user is refused, "" if nothing is known against them. Only "active" passes: GitLab's
// own blocked? leaves out deactivated accounts.
func (g *GitLab) userProblem(id int64) Code {
	if g.cfg.UserState == nil {
		return ""
	}
	state, known := g.cfg.UserState(id)
	if !known {
		return ""
	}
	return StateCode(state)
}

// StateCode returns the reason why an account in this state of GitLab's (or of those of Config.UserState) is refused, "" for one
// that is let in.
func StateCode(state string) Code {
	switch state {
	case "active":
		return ""
	case "blocked", "ldap_blocked":
		return CodeUserBlocked
	case "banned":
		return CodeUserBanned
	case "deactivated":
		return CodeUserDeactivated
	case "blocked_pending_approval":
		return CodeUserPendingApproval
	case StateDeleted:
		return CodeUserDeleted
	case StateNotHuman:
		return CodeUserNotHuman
	default:
		return CodeUserNotActive
	}
}

// number reads an id as GitLab writes it: digits of a positive number, no sign, no leading zero.
func number(t text) (int64, bool) {
	if !t.valid {
		return 0, false
	}
	return kubename.ParseUser(kubename.UserPrefix + t.s)
}

type extra map[string][]string

// add leaves out what is missing, and what would look like one of Kubernetes' own names in an audit log.
func (e extra) add(key string, value text) {
	if value.valid && value.s != "" && !strings.HasPrefix(value.s, "system:") {
		e[key] = []string{value.s}
	}
}

func kindOfUsername(name string) Kind {
	if _, ok := kubename.ParseCIJob(name); ok {
		return KindCI
	}
	if _, ok := kubename.ParseUser(name); ok {
		return KindUser
	}
	return KindUnknown
}
