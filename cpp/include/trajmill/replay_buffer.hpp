// A ring of transitions: one packed row each, so that a random read touches few cache lines.
//
// Rows. Row number s, counted from the first ever added, is in slot s % capacity and is overwritten by row s +
// capacity. The next row of its environment is a row's successor. While rows come of all `environment_count` = E
// environments together, row s is of environment s % E and its successor is row s + E. Once rows of some of them come,
// successors are kept in memory; they follow from the environments of rows, which are stored for E > 1.
//
// Draws. Draw d (the d-th call of sample) needs one 64-bit number u for each row of the batch: words 2 (r % 2), high,
// and 2 (r % 2) + 1, low, of the Philox4x32-10 block at counter (r / 2, d low, d high, 0) under
// derive_key(seed, Domain::replay_indexes). With i = floor(u * size / 2^64), row r of the batch is in slot i if every
// slot is taken, else it is the i-th row from the oldest on, which is slot i too unless a process died while it
// overwrote rows. For sizes below 2^31, i = (high * size + (low * size >> 32)) >> 32 in signed 64-bit arithmetic.
// Prioritised: the weights' sum is cut into `batch_size` equal parts and row r is drawn from part r, at
// (r + (u >> 11) / 2^53) / batch_size of the sum. Without replacement: i = Permutation(size, key)(r), where key =
// derive_key(seed, Domain::replay_order, {size, d}). Epoch e is the permutation of key
// derive_key(seed, Domain::replay_order, {size, e, 1}).
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "trajmill/batch_source.hpp"
#include "trajmill/sum_tree.hpp"

namespace trajmill {

inline constexpr double kLargestPriority = 1e28;  // whose power alpha <= 10 the sum tree takes

// A column that repeats another one of the next row, as next_observation does observation. It is stored only where it
// differs, byte by byte, from `of` in the successor, or where there is no successor yet.
struct SharedColumn {
  std::string name;
  std::string of;
};

struct ReplaySettings {
  std::size_t capacity;         // rows; a multiple of environment_count
  std::vector<Column> columns;  // of a transition, in the caller's order
  std::vector<SharedColumn> shared = {};
  // Columns that say where a row led to, and those that say where a row began, besides the shared ones; none:
  // next_observation and observation if there are both, where n_step > 1 needs no more to be known.
  std::optional<std::vector<SharedColumn>> following = {};
  std::uint64_t seed = 0;
  std::size_t environment_count = 1;
  std::size_t n_step = 1;
  double discount = 0.99;            // per step, in [0, 1]; used where n_step > 1
  bool is_checked = false;           // changes of rows and priorities by anything else are noticed
  std::optional<double> alpha = {};  // draws in proportion to priority^alpha; none: uniform
};

// How one draw differs from the usual.
struct DrawOptions {
  bool replace = true;
  std::optional<double> beta = {};  // exponent of the weights that make up for priorities; none: the buffer's
};

// Where the parts of a buffer lie in its memory, in bytes; each begins at a page.
struct ReplayLayout {
  std::size_t row_stride;
  std::vector<std::size_t> offsets;  // of each column in a row; those shared: in an entry of the side store
  std::size_t entry_offset;          // in a row: which entry of the side store it has
  std::size_t entry_size;            // of the side store; 0: nothing is shared
  std::size_t rows, weights, entries, environments, checks;  // begins of the parts; the state comes first
  std::size_t byte_count;
};

// Everything here is safe to call from several threads: draws run side by side, changes alone.
class ReplayBuffer : public BatchSource {
 public:
  // In memory of its own, or in the caller's: layout(settings).byte_count bytes at a page boundary that outlive the
  // buffer, all zero or what an earlier buffer of equal settings left there. A change is complete or not there at
  // all, whenever the process dies. Throws std::invalid_argument for settings that contradict each other and for
  // memory that holds no such buffer.
  explicit ReplayBuffer(ReplaySettings settings, std::span<std::byte> memory = {});
  ~ReplayBuffer() override;

  // The columns of a transition; n_step > 1 adds `discount`, priorities add `indexes` and `weights`.
  [[nodiscard]] const std::vector<Column>& batch_columns() const noexcept override { return batch_columns_; }
  [[nodiscard]] const ReplaySettings& settings() const noexcept { return settings_; }
  [[nodiscard]] const ReplayLayout& layout() const noexcept { return layout_; }
  [[nodiscard]] static ReplayLayout layout(const ReplaySettings& settings);

  [[nodiscard]] std::size_t size() const;
  [[nodiscard]] std::uint64_t row_count() const;   // number of the next row: those added and slots that clear() skipped
  [[nodiscard]] std::uint64_t draw_count() const;  // draws ever made, which is the number of the next one
  void set_draw_count(std::uint64_t count);        // below 2^48
  void skip_draws(std::uint64_t count, std::size_t) override { set_draw_count(draw_count() + count); }
  [[nodiscard]] std::vector<std::uint64_t> position() const override { return {draw_count()}; }
  void seek(std::span<const std::uint64_t> position) override { set_draw_count(position[0]); }
  [[nodiscard]] double largest_priority() const;
  [[nodiscard]] double beta() const noexcept { return beta_; }
  void set_beta(double beta);  // in [0, 10]

  // Appends `count` rows, at most the capacity: column c from columns[c], in the order of settings().columns. Row i is
  // of environment environments[i] in [0, environment_count); rows of one environment are in the order of its steps. No
  // environments: `count` is a multiple of environment_count, and row i is of environment i % environment_count. The
  // rows get the largest priority ever set, which starts at 1. Nothing changes if it throws, also std::bad_alloc.
  // Returns the first slot; the others follow it around the ring.
  std::size_t add(std::size_t count, std::span<const std::byte* const> columns,
                  std::span<const std::int64_t> environments = {});

  void sample(std::size_t batch_size, std::span<std::byte* const> columns, std::size_t thread_count) override {
    sample(batch_size, {}, columns, thread_count);
  }
  void sample(std::size_t batch_size, const DrawOptions& options, std::span<std::byte* const> columns,
              std::size_t thread_count);

  // Refuses if rows are drawn by priority.
  void choose(std::span<const std::uint32_t> words, const RowGroups& groups, std::span<std::byte* const> columns,
              std::size_t thread_count) override;

  // The rows in the given slots, without `indexes` and `weights`, or, `as_added`, the columns of settings() as add()
  // got them; throws std::out_of_range for an empty slot. `slots` do not change meanwhile.
  void gather(std::span<const std::int64_t> slots, std::span<std::byte* const> columns, std::size_t thread_count,
              bool as_added = false);
  [[nodiscard]] std::span<const Column> gathered_columns(bool as_added) const noexcept;

  // Where n_step > 1: how many rows were added that end no episode, though the row after them does not begin where they
  // led to. Runs of n steps stop there.
  [[nodiscard]] std::size_t break_count() const;

  // The slots at positions first, first + 1, ... of an epoch's order, in which every row comes once.
  void epoch_slots(std::uint64_t epoch, std::size_t first, std::span<std::int64_t> slots) const;

  // Where `is_checked`: slots of those of rows number `first` to `last` - 1 that are not what was added.
  [[nodiscard]] std::vector<std::int64_t> changed_slots(std::uint64_t first, std::uint64_t last) const;

  // For a copy that makes the same draws on another device: where the rows are, in the order in which draws count them,
  // and the key of the words behind a draw.
  [[nodiscard]] std::vector<std::int64_t> slots() const;
  [[nodiscard]] std::uint64_t draw_key() const noexcept { return key_; }

  // Sets priorities >= 0; zero is never drawn. Where a slot comes twice the last one holds; a slot that was overwritten
  // since means the row that is there now. Nothing changes if it throws: std::invalid_argument for a bad priority,
  // std::out_of_range for an empty slot.
  void update_priorities(std::span<const std::int64_t> slots, std::span<const double> priorities);

  // Weights priority^alpha of slots.
  void priority_weights(std::span<const std::int64_t> slots, std::span<double> weights) const;

  void clear();  // forgets every row; the next one is in slot 0

  // --- for files: the memory with nobody changing it ---
  void lock_shared() { mutex_.lock_shared(); }
  void unlock_shared() { mutex_.unlock_shared(); }
  struct Extent {
    std::size_t begin, size;
  };
  // Of state, rows, weights, entries, environments; under lock_shared.
  [[nodiscard]] std::vector<Extent> used_extents() const;
  [[nodiscard]] std::span<std::byte> memory() const noexcept { return memory_; }
  [[nodiscard]] const std::shared_ptr<std::byte[]>& owned_memory() const noexcept {
    return owned_;
  }  // null: the caller's
  // Takes over what was put into memory(): checks it and rebuilds what is derived; or closes the buffer and throws
  // std::invalid_argument. Version 2 had no environments: rows came of all of them together. In version 1 first, added,
  // draw count and largest priority lie one after another, unchecked.
  static constexpr std::uint32_t kVersion = 3;
  void restore(std::uint32_t version = kVersion);
  // Gives the memory up; every later call throws std::invalid_argument with this text.
  void close(std::string reason = "the buffer is closed");

 private:
  struct Record;  // which rows there are
  struct State;   // the record, and what of it must survive
  struct Piece;   // how a batch column is made
  struct Link;    // a column that says where a row led to
  class Slots;    // where rows are
  class Block;    // some rows on their way out

  // Rows (replay_rows.cpp).
  void make_columns();
  void make_links();
  [[nodiscard]] std::byte* row(std::size_t slot) const noexcept { return rows_ + slot * layout_.row_stride; }
  void copy_out(std::span<const std::int64_t> slots, std::span<const std::int64_t> next, std::size_t first_row,
                std::span<std::byte* const> columns, bool as_added) const noexcept;
  template <class SlotsOf>
  void copy_rows(const RowGroups& groups, std::span<std::byte* const> columns, std::size_t thread_count,
                 const SlotsOf& slots_of, bool as_added = false) const;
  template <class SlotsOf>
  void copy_run(std::size_t begin, std::size_t end, std::span<std::byte* const> columns, const SlotsOf& slots_of,
                bool as_added) const;
  void prefetch(std::span<const std::int64_t> slots) const noexcept;

  // The ring (replay_ring.cpp). An entry of the side store holds the shared columns of one row; 0 instead of its number
  // says that the successor has them.
  void require_open() const;
  void rebuild(std::uint32_t version, bool is_new);
  [[nodiscard]] std::size_t used_slot_count() const noexcept;
  void give_up(std::string reason) noexcept;
  static void require_sound(bool holds);
  [[nodiscard]] const Record& now() const noexcept;
  [[nodiscard]] std::size_t size_now() const noexcept;
  void publish(std::uint64_t first, std::uint64_t added, double largest_priority) noexcept;
  void make_room(std::size_t count);
  [[nodiscard]] std::uint64_t next_draw();
  void require_rows(std::span<const std::int64_t> slots) const;
  [[nodiscard]] std::int64_t& entry_of(std::size_t slot) const noexcept {
    return *reinterpret_cast<std::int64_t*>(row(slot) + layout_.entry_offset);
  }
  [[nodiscard]] std::byte* entry(std::int64_t number) const noexcept {
    return entries_ + static_cast<std::size_t>(number - 1) * layout_.entry_size;
  }
  [[nodiscard]] std::size_t successor(std::size_t slot) const noexcept;
  [[nodiscard]] bool has_successor(std::uint64_t number) const noexcept;
  void follow_environments();
  std::size_t follow(std::uint64_t number) noexcept;
  [[nodiscard]] std::uint64_t row_check(std::uint64_t number) const noexcept;
  void store_environments(std::uint64_t number, std::size_t count, std::span<const std::int64_t> environments) noexcept;
  template <class Work>
  void for_each_continued(std::uint64_t number, std::size_t count, const Work& work) const;
  std::int64_t take_entry() noexcept;
  void evict(std::uint64_t first_kept) noexcept;
  void store_rows(std::uint64_t number, std::size_t count, std::size_t from, std::span<const std::byte* const> columns);
  void share_rows(std::uint64_t number, std::size_t count, std::span<const std::byte* const> columns) noexcept;
  void draw(std::uint64_t draw, const DrawOptions& options, std::size_t begin, std::size_t batch_size,
            std::span<std::int64_t> slots) const;
  void restore_environments(std::uint32_t version);
  void restore_entries();

  // Rows that follow one another (replay_n_step.cpp).
  void require_n_step_columns() const;
  [[nodiscard]] bool has_end(const std::byte* row) const noexcept;
  [[nodiscard]] bool is_repeated(std::size_t slot, std::size_t successor) const noexcept;
  [[nodiscard]] bool continues(std::size_t slot, std::size_t successor) const noexcept;

  // Priorities (replay_priorities.cpp).
  [[nodiscard]] static double checked_beta(double beta);
  [[nodiscard]] double largest_priority_now() const noexcept;
  void prioritize(std::size_t slot, std::size_t count);
  void draw_by_priority(std::span<const std::uint64_t> words, std::size_t begin, std::size_t batch_size,
                        std::span<std::int64_t> slots) const;
  static void weigh(std::span<const double> weights, double beta, std::byte* out);
  void restore_priorities(bool is_new);

  ReplaySettings settings_;
  ReplayLayout layout_;
  std::vector<Column> batch_columns_;
  std::vector<Piece> pieces_;  // one for each batch column before `indexes`
  std::vector<Link> links_;
  std::uint64_t key_;
  std::size_t reward_ = 0, terminal_ = 0, truncated_ = 0;  // columns that n-step returns read; none: column count
  std::size_t prefetched_bytes_;

  std::atomic<double> beta_ = 0.4;  // Schaul et al. 2016, table 3
  mutable ForkLock mutex_;
  std::shared_ptr<std::byte[]> owned_;
  std::span<std::byte> memory_;
  State* state_ = nullptr;
  std::byte* rows_ = nullptr;
  std::byte* entries_ = nullptr;
  std::uint32_t* environments_ = nullptr;    // of the rows in the slots, if there are several
  std::uint64_t* checks_ = nullptr;          // of the rows in the slots, if they have them
  std::shared_ptr<std::byte[]> successors_;  // 1 + slot or 0, for each slot; null: all environments came together
  std::vector<std::uint64_t> latest_;        // with successors_: 1 + number of each environment's last row, or 0
  std::vector<std::size_t> continued_;       // with successors_: slots of rows whose successors are being added
  std::optional<SumTree> tree_;
  std::vector<std::int64_t> free_entries_;
  std::size_t entry_count_ = 0;  // entries ever in use
  std::size_t break_count_ = 0;
  std::string closed_;  // why there is no memory
};

}  // namespace trajmill
