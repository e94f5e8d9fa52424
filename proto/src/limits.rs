//! Every limit, in one place. A limit is part of the contract: raising one is a change of the protocol, lowering one breaks somebody.

/// One gRPC message, either way, bytes.
pub const MESSAGE_BYTES_MAX: usize = 4 * 1024 * 1024;
/// One Raft message between coordinators, bytes.
pub const RAFT_MESSAGE_BYTES_MAX: usize = 8 * 1024 * 1024;
/// A job spec as canonical JSON, bytes.
pub const SPEC_BYTES_MAX: usize = 64 * 1024;
/// Calls in flight per connection.
pub const CALLS_PER_CONNECTION_MAX: usize = 128;
/// Jobs of one user that may be pending at once.
pub const PENDING_PER_USER_MAX: usize = 20_000;
/// Nodes of one gang.
pub const GANG_NODES_MAX: u32 = 4_096;
/// Tasks of one array job.
pub const ARRAY_TASKS_MAX: u32 = 100_000;
/// The highest index of a task.
pub const ARRAY_INDEX_MAX: u32 = 9_999_999;
/// Tasks that one node is given at once.
pub const WAVE_TASKS_MAX: u32 = 4_096;
/// Failed tasks that an array job names; of the others it is known which they are and how they ended.
pub const ARRAY_FAILURES_MAX: usize = 8;
/// Ranks on one node.
pub const RANKS_PER_NODE_MAX: u32 = 1_024;
/// Ranks of one gang, all nodes together.
pub const GANG_RANKS_MAX: u32 = 65_536;
/// GPUs a job may ask for on one node.
pub const GPUS_PER_NODE_MAX: u32 = 64;
/// Logical processors that a job may ask for on one node.
pub const CPUS_PER_NODE_MAX: u32 = 4_096;
/// Memory that a job may ask for on one node, bytes.
pub const MEMORY_PER_NODE_MAX: u64 = 64 << 40;
/// The least memory that a job may ask for per rank, bytes: with less not even a shell starts.
pub const MEM_PER_RANK_MIN: u64 = 4 << 20;
/// Disk that a job may ask for on one node, bytes.
pub const DISK_PER_NODE_MAX: u64 = 1 << 50;
/// The least disk that a job may ask for per rank, bytes.
pub const DISK_PER_RANK_MIN: u64 = 1 << 20;
/// Of one license, or another thing that is counted, that a job may ask for.
pub const LICENSE_COUNT_MAX: u32 = 1_000_000;
/// Pools, labels of nodes, and licenses that a job may name, each.
pub const PLACE_WORDS_MAX: usize = 64;
/// Sizes that an elastic gang may list; a range has any number.
pub const ELASTIC_SIZES_MAX: usize = 64;
/// Jobs that one job may wait for.
pub const DEPENDENCIES_MAX: usize = 64;
/// The longest time that a job may ask for between the notice that others get its devices and its end, milliseconds.
pub const GRACE_MS_MAX: u64 = 600_000;
/// A team's path, bytes.
pub const TEAM_BYTES_MAX: usize = 255;
/// Names in a team's path.
pub const TEAM_DEPTH_MAX: usize = 8;
/// Names of nodes, users, pools, bytes.
pub const NAME_BYTES_MAX: usize = 63;
/// A job's name, bytes.
pub const JOB_NAME_BYTES_MAX: usize = 128;
/// Words of a command.
pub const ARGV_MAX: usize = 4_096;
/// Variables of a job's environment.
pub const ENV_MAX: usize = 1_024;
/// One blob sent over gRPC, bytes. Code files are blobs.
pub const BLOB_BYTES_MAX: u64 = 2 * 1024 * 1024 * 1024;
/// Data of one chunk message of a blob, bytes.
pub const BLOB_CHUNK_BYTES: usize = 256 * 1024;
/// Files of one code upload.
pub const CODE_FILES_MAX: usize = 200_000;
/// A code upload above this asks first, bytes.
pub const CODE_BYTES_ASK: u64 = 200 * 1024 * 1024;
/// Events in one report of an agent.
pub const EVENTS_PER_BATCH_MAX: usize = 1_024;
/// One word between the keepers of an MPI job's nodes, bytes.
pub const RELAY_BYTES_MAX: usize = 512 * 1024;
/// One sentence for people inside a record, bytes.
pub const DETAIL_BYTES_MAX: usize = 1_024;
/// Checkpoints remembered per job; older ones are forgotten, the newest never.
pub const CHECKPOINTS_PER_JOB_MAX: usize = 64;
/// Bytes of log kept per rank and attempt: its beginning and its newest part; what lies between goes and the gap is shown.
pub const LOG_BYTES_PER_RANK_MAX: u64 = LOG_HEAD_BYTES + LOG_TAIL_BYTES;
/// Bytes kept from the beginning of a rank's log.
pub const LOG_HEAD_BYTES: u64 = 16 * 1024 * 1024;
/// Bytes kept before the end of a rank's log.
pub const LOG_TAIL_BYTES: u64 = 48 * 1024 * 1024;
/// What PyTorch's flight recorder names its dumps, in a job's work directory: this, then the rank.
pub const DUMP_NAME: &str = "nccl-trace-rank-";
/// One piece of a log on the wire, bytes.
pub const LOG_PIECE_BYTES_MAX: usize = 256 * 1024;
/// Change records that every coordinator keeps for watchers.
pub const WATCH_WINDOW: usize = 65_536;
/// How long an idempotency key is kept, milliseconds of state time.
pub const IDEMPOTENCY_MS: i64 = 24 * 3600 * 1000;
/// How often a job starts again by itself after its node, keeper or device was lost.
pub const INFRASTRUCTURE_RESTARTS_MAX: u32 = 3;
/// How often a spec may ask that its job starts again by itself.
pub const RETRIES_MAX: u32 = 10_000;
/// A job that took so many nodes or agents down is held: it may be what kills them.
pub const POISON_LOSSES: u32 = 3;
/// An attempt that ran for so long is no suspicion against its job: what was counted before it counts no more, milliseconds.
pub const UNSUSPECTED_MS: i64 = 3_600_000;
/// A job requeued by failures of the infrastructure more often than this waits before each further start.
pub const REQUEUES_AT_ONCE: u32 = 3;
/// The first back-off before a restart, milliseconds; each further one is twice as long.
pub const BACKOFF_FIRST_MS: i64 = 10_000;
/// The longest back-off, milliseconds.
pub const BACKOFF_MS_MAX: i64 = 600_000;
/// The first back-off in a dev cluster, milliseconds.
pub const BACKOFF_FIRST_DEV_MS: i64 = 200;
/// The longest back-off in a dev cluster, milliseconds.
pub const BACKOFF_DEV_MS_MAX: i64 = 5_000;
/// Nodes that failed a job and are remembered with it; the oldest are forgotten first.
pub const EXCLUDED_NODES_MAX: usize = 16;
/// A page of a job listing when none is asked for.
pub const LIST_LIMIT_DEFAULT: u32 = 10_000;
/// How long a client goes on trying with the same key, milliseconds.
pub const CLIENT_RETRY_MS: u64 = 15_000;
/// One try of a client's call, milliseconds.
pub const CLIENT_TRY_MS: u64 = 4_000;
/// An agent without an answer to its heartbeats dials another coordinator after this, milliseconds.
pub const AGENT_REDIAL_MS: u64 = 15_000;
/// A job does not start again for at most this long while word of a checkpoint of its last attempt is on its way.
pub const SALVAGE_MS: u64 = 30_000;
/// Copies of a checkpoint beside the one on the node that made it.
pub const CHECKPOINT_REPLICAS_MAX: u32 = 8;
/// From the commit of a start until every node of the gang must be ready, milliseconds.
pub const GANG_READY_MS: u64 = 120_000;
/// Before its time limit a job hears of it so early, milliseconds, unless its spec says when; never earlier than a tenth of the limit.
pub const NOTICE_MS: u64 = 90_000;
/// A trainer gets this long between TERM and KILL when its gang ends, milliseconds.
pub const STOP_GRACE_MS: u32 = 5_000;
/// Teams of one cluster.
pub const TEAMS_MAX: usize = 10_000;
/// Levels of the tree of teams.
pub const TEAM_LEVELS_MAX: usize = 8;
/// A team's path, bytes.
pub const TEAM_PATH_BYTES_MAX: usize = 255;
/// Users of one team.
pub const TEAM_MEMBERS_MAX: usize = 10_000;
/// A person's name beside an id, bytes.
pub const PERSON_NAME_BYTES_MAX: usize = 128;
/// Types of GPUs, with or without a pool, that one team names in its quotas, and in its budgets.
pub const TEAM_FLAVORS_MAX: usize = 256;
/// Changes of teams in one request.
pub const TEAM_EDITS_MAX: usize = 50_000;
/// Changes of teams that one answer lists; the others are counted.
pub const TEAM_CHANGES_TOLD_MAX: usize = 1_000;
/// A quota of one type, units of 1/7,000 GPU: a thousand million GPUs.
pub const QUOTA_UNITS_MAX: u64 = 7_000_000_000_000;
/// A budget of one type, units of 1/7,000 GPU times milliseconds: 180 million GPU-hours, about.
pub const BUDGET_UNIT_MS_MAX: u64 = 1 << 62;
/// Changes of a zone's clock that come with a budget.
pub const ZONE_OFFSETS_MAX: usize = 512;
/// Edits of what an admin decides, in one request.
pub const DECISION_EDITS_MAX: usize = 256;
/// Decisions of one kind: countables, times of maintenance, pauses.
pub const DECISIONS_MAX: usize = 1_000;
/// Why something is paused or maintained, bytes.
pub const REASON_BYTES_MAX: usize = 256;
