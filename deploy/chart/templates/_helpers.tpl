{{/* The name that every object begins with. */}}
{{- define "mantlet.name" -}}
{{- $chart := default .Chart.Name .Values.nameOverride -}}
{{- if contains $chart .Release.Name -}}
{{- .Release.Name | trunc 40 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name $chart | trunc 40 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{- define "mantlet.injector" -}}
{{- printf "%s-injector" (include "mantlet.name" .) -}}
{{- end -}}

{{/* Where the injector keeps its serving certificate and its authority. */}}
{{- define "mantlet.secret" -}}
{{- printf "%s-certificate" (include "mantlet.injector" .) -}}
{{- end -}}

{{- define "mantlet.selector" -}}
app.kubernetes.io/name: {{ .Chart.Name }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- define "mantlet.labels" -}}
{{ include "mantlet.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{- with .Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{/* Name of an image without its tag. Arguments: root, image. */}}
{{- define "mantlet.repository" -}}
{{- $registry := .root.Values.global.imageRegistry -}}
{{- $first := first (splitList "/" .image.repository) -}}
{{- $named := and (contains "/" .image.repository) (or (contains "." $first) (contains ":" $first) (eq $first "localhost")) -}}
{{- if and $registry (not $named) -}}
{{- printf "%s/%s" (trimSuffix "/" $registry) .image.repository -}}
{{- else -}}
{{- .image.repository -}}
{{- end -}}
{{- end -}}

{{/* Name and tag of an image. Arguments: root, image. */}}
{{- define "mantlet.tagged" -}}
{{- printf "%s:%s" (include "mantlet.repository" .) (default .root.Chart.AppVersion .image.tag) -}}
{{- end -}}

{{/* The namespaces that nothing of ours concerns itself with, the release's own among them. */}}
{{- define "mantlet.excluded" -}}
{{- append .Values.excludedNamespaces .Release.Namespace | uniq | sortAlpha | toJson -}}
{{- end -}}

{{/* Labels of namespaces that ask for sidecars. */}}
{{- define "mantlet.askingNamespaces" -}}
matchExpressions:
  - {key: mantlet.dev/inject, operator: In, values: [enabled]}
  - {key: kubernetes.io/metadata.name, operator: NotIn, values: {{ include "mantlet.excluded" . }}}
{{- end -}}

{{/* Labels of namespaces that do not, in which a single pod may. */}}
{{- define "mantlet.otherNamespaces" -}}
matchExpressions:
  - {key: mantlet.dev/inject, operator: NotIn, values: [enabled]}
  - {key: kubernetes.io/metadata.name, operator: NotIn, values: {{ include "mantlet.excluded" . }}}
{{- end -}}

{{/* Labels of pods in a namespace that asks: all but those that say no. */}}
{{- define "mantlet.unlessDisabled" -}}
matchExpressions:
  - {key: mantlet.dev/inject, operator: NotIn, values: [disabled]}
{{- end -}}

{{/* Labels of pods that ask themselves. */}}
{{- define "mantlet.podAsks" -}}
matchExpressions:
  - {key: mantlet.dev/inject, operator: In, values: [enabled]}
{{- end -}}

{{/*
CEL: does the pod itself ask for a sidecar? Then it is refused where it cannot have one, and never passed over.
*/}}
{{- define "mantlet.cel.asks" -}}
(has(object.metadata.labels) && 'mantlet.dev/inject' in object.metadata.labels && object.metadata.labels['mantlet.dev/inject'] == 'enabled')
{{- end -}}

{{/* CEL conditions: pods that no sidecar can be put into. */}}
{{- define "mantlet.podConditions" -}}
- name: not-mirror
  expression: "!has(object.metadata.annotations) || !('kubernetes.io/config.mirror' in object.metadata.annotations)"
- name: not-host-network
  expression: >-
    !has(object.spec.hostNetwork) || !object.spec.hostNetwork || {{ include "mantlet.cel.asks" . }}
- name: not-windows
  expression: >-
    (!(has(object.spec.os) && object.spec.os.name == 'windows')
    && !(has(object.spec.nodeSelector) && 'kubernetes.io/os' in object.spec.nodeSelector
    && object.spec.nodeSelector['kubernetes.io/os'] == 'windows'))
    || {{ include "mantlet.cel.asks" . }}
{{- end -}}

{{/* CEL condition: a pod that runs with a sidecar. What is in its spec stays; its labels need not. */}}
{{- define "mantlet.hasSidecar" -}}
- name: has-sidecar
  expression: >-
    has(object.spec.initContainers) && object.spec.initContainers.exists(c, c.name == 'mantlet-proxy')
{{- end -}}

{{/*
CEL: the annotations of ours in a map are not those of another one. Arguments: new, old, each an expression for
metadata that need not exist, with `has` for every step in newHas and oldHas.
*/}}
{{- define "mantlet.cel.annotationsDiffer" -}}
{{- $new := printf "(%s ? %s.annotations : {})" .newHas .new -}}
{{- $old := printf "(%s ? %s.annotations : {})" .oldHas .old -}}
{{ $new }}.exists(k, k.startsWith('mantlet.dev/') && !(k in {{ $old }} && {{ $new }}[k] == {{ $old }}[k]))
|| {{ $old }}.exists(k, k.startsWith('mantlet.dev/') && !(k in {{ $new }}))
{{- end -}}

{{- define "mantlet.mutating" -}}
clientConfig:
  service:
    name: {{ include "mantlet.injector" . }}
    namespace: {{ .Release.Namespace }}
    path: /mutate
    port: 443
rules:
  - apiGroups: [""]
    apiVersions: [v1]
    operations: [CREATE]
    resources: [pods]
    scope: Namespaced
matchConditions: {{- include "mantlet.podConditions" . | nindent 2 }}
failurePolicy: Fail
matchPolicy: Equivalent
reinvocationPolicy: IfNeeded
sideEffects: NoneOnDryRun
timeoutSeconds: {{ .Values.injector.timeoutSeconds }}
admissionReviewVersions: [v1]
{{- end -}}

{{- define "mantlet.validating" -}}
clientConfig:
  service:
    name: {{ include "mantlet.injector" . }}
    namespace: {{ .Release.Namespace }}
    path: /validate
    port: 443
failurePolicy: Fail
matchPolicy: Equivalent
sideEffects: NoneOnDryRun
timeoutSeconds: {{ .Values.injector.timeoutSeconds }}
admissionReviewVersions: [v1]
{{- end -}}

{{/* CEL: a string or a list of strings. JSON's escapes are CEL's. */}}
{{- define "mantlet.cel.string" -}}
{{- toJson . | replace "\\u003c" "<" | replace "\\u003e" ">" | replace "\\u0026" "&" -}}
{{- end -}}

{{/* CEL: what the name of an image begins with, tag or digest after it. Arguments: root, image, after. */}}
{{- define "mantlet.cel.image" -}}
{{- include "mantlet.cel.string" (printf "%s%s" (include "mantlet.repository" .) .after) -}}
{{- end -}}

{{/* An image as a pod names it. Arguments: root, image. */}}
{{- define "mantlet.image" -}}
{{- include "mantlet.tagged" . -}}
{{- with .image.digest }}@{{ . }}{{ end -}}
{{- end -}}

{{/* The agent's folders on a node: as they are listed, and where the sidecar finds it. */}}
{{- define "mantlet.agentDirectories" -}}
{{- $all := .Values.agentDirectories -}}
{{- if eq .Values.workloadApi.mode "hostPath" -}}
{{- $all = append $all .Values.workloadApi.directory -}}
{{- end -}}
{{- $clean := list -}}
{{- range $all -}}
{{- $clean = append $clean (regexReplaceAll "^/var/run/" (trimSuffix "/" .) "/run/") -}}
{{- end -}}
{{- $clean | uniq | sortAlpha | toJson -}}
{{- end -}}

{{/* One image in the injector's document. Arguments: root, image. */}}
{{- define "mantlet.documentImage" -}}
name: {{ include "mantlet.tagged" . }}
{{- with .image.digest }}
digest: {{ . }}
{{- end }}
pullPolicy: {{ .image.pullPolicy }}
{{- end -}}

{{/* The injector's document. */}}
{{- define "mantlet.document" -}}
{{- $domain := required "trustDomain is required: the trust domain of the identities, such as --set trustDomain=prod.example" .Values.trustDomain -}}
trustDomain: {{ $domain | quote }}
images:
  proxy: {{- include "mantlet.documentImage" (dict "root" . "image" .Values.proxy.image) | nindent 4 }}
  init: {{- include "mantlet.documentImage" (dict "root" . "image" .Values.init.image) | nindent 4 }}
imagePullSecrets: {{ toJson .Values.imagePullSecrets }}
resources:
  proxy: {{- toYaml .Values.proxy.resources | nindent 4 }}
  init: {{- toYaml .Values.init.resources | nindent 4 }}
user: {{ int64 .Values.proxy.user }}
group: {{ int64 .Values.proxy.group }}
initUser: {{ int64 .Values.init.user }}
ports: {{- toYaml .Values.proxy.ports | nindent 2 }}
workloadApi:
  {{- with .Values.workloadApi }}
  {{- if eq .mode "csi" }}
  csi: {driver: {{ .driver | quote }}, socket: {{ .socket | quote }}}
  {{- else }}
  hostPath: {directory: {{ .directory | trimSuffix "/" | quote }}, socket: {{ .socket | quote }}}
  {{- end }}
  {{- end }}
meshCidrs: {{ toJson .Values.meshCidrs }}
{{- with .Values.unmeshed }}
unmeshed: {{ . }}
{{- end }}
{{- with .Values.external }}
external: {{ . }}
{{- end }}
{{- if .Values.directory.enabled }}
directory:
  address: {{ printf "%s.%s.svc:%d" (include "mantlet.injector" .) .Release.Namespace (int .Values.directory.port) | quote }}
  id: {{ printf "spiffe://%s/ns/%s/sa/%s" $domain .Release.Namespace (include "mantlet.injector" .) | quote }}
{{- end }}
unknown: {{ .Values.unknown }}
unconfigured: {{ .Values.unconfigured }}
guardrails: {{ toJson .Values.guardrails }}
log: {{ .Values.proxy.log | quote }}
accessLog: {{ .Values.proxy.accessLog | quote }}
profile: {{ .Values.profile }}
excludedNamespaces: {{ include "mantlet.excluded" . }}
refusedRuntimeClasses: {{ toJson .Values.refusedRuntimeClasses }}
agentDirectories: {{ include "mantlet.agentDirectories" . }}
agentDrivers: {{ list .Values.workloadApi.driver | toJson }}
allowPrivileged: {{ .Values.allowPrivileged }}
{{- end -}}
